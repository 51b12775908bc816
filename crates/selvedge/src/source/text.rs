//! Names as they are printed: cut, because they are the guest's.
//!
//! By references back a mangled name of a few hundred bytes can say a million, and a name section's may have a hundred thousand as it is.

use std::fmt::{self, Write};

/// The most bytes of a text.
pub(crate) const TEXT_BYTES: usize = 4096;

/// What a name, Rust's or any other, is in the source, in up to [`TEXT_BYTES`].
pub(crate) fn demangled(name: &rustc_demangle::Demangle<'_>) -> String {
    let mut text = Cut(String::new());
    // The only error is that it was cut.
    let _ = write!(text, "{name:#}");
    text.0
}

/// The beginning of a text that takes up to [`TEXT_BYTES`].
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES)]
}

/// A text that takes up to [`TEXT_BYTES`].
struct Cut(String);

impl fmt::Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let kept = part.floor_char_boundary(TEXT_BYTES - self.0.len());
        self.0.push_str(&part[..kept]);
        match kept == part.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}
