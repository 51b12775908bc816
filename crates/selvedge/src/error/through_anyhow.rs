//! The feature `anyhow`: errors to `anyhow::Error` and back, with what they are by type.
//!
//! `From<anyhow::Error> for Error` cannot be: `From` takes every standard error, and anyhow's might become one (E0119).

use super::{Boxed, Error, Layer};
use std::error::Error as StdError;

/// What [`Foreign::new`](super::Foreign::new) had, by its type.
pub(super) fn typed<E: StdError + Send + Sync + 'static>(
    error: Box<dyn StdError + Send + Sync>,
) -> anyhow::Error {
    match error.downcast::<E>() {
        Ok(error) => anyhow::Error::new(*error),
        Err(error) => anyhow::Error::from_boxed(error),
    }
}

impl Error {
    /// An error that was made with anyhow. Whatever anyhow finds in it by type, [`downcast_ref`](Error::downcast_ref) finds: a trap of a
    /// guest that went through anyhow is a trap again, with its backtrace.
    ///
    /// A host function whose body is made of `anyhow::Result` says so once, at its end:
    ///
    /// ```
    /// # use selvedge::{Engine, Error, Linker, Result};
    /// fn parse(text: &str) -> anyhow::Result<i32> {
    ///     anyhow::Context::context(text.parse(), "no number")
    /// }
    /// # let mut linker = Linker::<()>::new(&Engine::default());
    /// linker.func_wrap("host", "answer", || parse("42").map_err(Error::from_anyhow))?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn from_anyhow(error: anyhow::Error) -> Error {
        match error.downcast::<Boxed>() {
            Ok(boxed) => boxed.0,
            Err(error) => Error::of(Layer::Anyhow(error)),
        }
    }
}

/// So that `?` works in functions that return `anyhow::Result`. Traps, errors of the host's and contexts are found by type as before; a backtrace is a
/// context outside of what it belongs to, as Wasmtime's is.
impl From<Error> for anyhow::Error {
    fn from(error: Error) -> anyhow::Error {
        match *error.layer {
            Layer::Trap { trap, backtrace } => {
                let error = anyhow::Error::new(trap);
                match backtrace {
                    Some(backtrace) => error.context(backtrace),
                    None => error,
                }
            }
            Layer::Foreign(foreign) => (foreign.to_anyhow)(foreign.error),
            Layer::Anyhow(error) => error,
            Layer::Message(message) => anyhow::Error::msg(message),
            Layer::Traced { backtrace, source } => anyhow::Error::from(source).context(backtrace),
            Layer::Context { context, source } => context.said_of(anyhow::Error::from(source)),
        }
    }
}
