//! Walking the frames of a store's guest by frame pointer.
//!
//! A walk is total: whatever a frame holds, an address outside the activation's piece of the stack, or one that does not lie
//! above the last, ends it.

use super::activation::Activation;
use super::store::StoreVm;

/// A frame of guest code (or of a trampoline), found by the frame record that its callee keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Where it goes on: the return address of its call.
    pub(crate) pc: usize,
    /// Its own frame record's address. Any word: only what lies in the segment is to be believed.
    pub(crate) fp: usize,
}

/// The frames of one activation, innermost first.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    limit: usize,
    link: usize,
    fp: usize,
}

impl Segment {
    /// Whether an address lies in what the activation's frames may use, with the bytes after it.
    pub(crate) fn contains(&self, address: usize, bytes: usize) -> bool {
        address >= self.limit && address < self.link && self.link - address >= bytes
    }
}

impl Iterator for Segment {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let record = self.fp;
        if record < self.limit || record >= self.link || !record.is_multiple_of(8) {
            return None;
        }
        // SAFETY: inside the store's stack, between its limit and the link, as just compared; the link's own record lies above.
        let [fp, pc] = unsafe { (record as *const [usize; 2]).read() };
        self.fp = if fp > record { fp } else { 0 };
        Some(Frame { pc, fp })
    }
}

/// The activations of a store, innermost first; `fp` is the frame record at which the innermost left the guest.
pub(crate) fn segments(store: &StoreVm, fp: usize) -> impl Iterator<Item = Segment> {
    let (limit, mut act, mut fp) = (store.stack.guard_end(), store.top.cast_const(), fp);
    std::iter::from_fn(move || {
        if act.is_null() {
            return None;
        }
        // SAFETY: on the list of activations, hence not ended (activation invariant 2).
        let activation: &Activation = unsafe { &*act };
        let segment = Segment {
            limit,
            link: activation.link(),
            fp,
        };
        fp = activation.outer_guest_fp();
        act = activation.parent;
        Some(segment)
    })
}
