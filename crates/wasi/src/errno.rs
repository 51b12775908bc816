//! Failures that are not an `errno` yet, and the `errno` a guest sees for them.
//!
//! `wasi-common` answers most failures with an `errno`. What it calls a trap is an error value here:
//! mostly a pointer out of bounds, which the guest caused and may handle.

use wasi_common::snapshots::preview_1::types::Errno;
use wiggle::GuestError;

/// What the guest sees for `error`.
pub(crate) fn errno(error: &wiggle::anyhow::Error) -> Errno {
    match error.chain().find_map(|cause| cause.downcast_ref::<GuestError>()) {
        Some(guest) => of_argument(guest),
        None => Errno::Io,
    }
}

/// For an argument that could not be read from, or a result that could not be written to, the guest.
fn of_argument(error: &GuestError) -> Errno {
    match error {
        GuestError::PtrOverflow | GuestError::PtrOutOfBounds(_) | GuestError::SliceLengthsDiffer => {
            Errno::Fault
        }
        GuestError::PtrNotAligned(..)
        | GuestError::InvalidFlagValue(_)
        | GuestError::InvalidEnumValue(_)
        | GuestError::TryFromIntError(_) => Errno::Inval,
        GuestError::InvalidUtf8(_) => Errno::Ilseq,
        GuestError::InFunc { err, .. } => of_argument(err),
    }
}
