//! The error of the embedding API, one pointer wide.
//!
//! A `Result<(), Error>` travels in one register through every host call, so what an error holds lies in one box:
//!
//! ```text
//!   Error --> context "while opening the door"     any number of contexts, outermost first
//!               source: Error --> cause             a trap with its backtrace, a foreign error, or a message
//!
//!   A cause other than a trap that ended a guest lies in one more box, which holds the backtrace and shows in nothing else.
//! ```
//!
//! Rules
//! 1. `From` takes every `std::error::Error`, so that `?` works. A [`Trap`] is recognised there by its type and
//!    is never boxed a second time. For that `Error` itself cannot implement `std::error::Error` (the two impls would
//!    overlap); it converts into a boxed one instead.
//! 2. Downcasts look at each context and at the cause, from the outside; not at the sources of a foreign error, which
//!    [`Error::chain`] shows.

use crate::backtrace::WasmBacktrace;
use crate::trap::Trap;
use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something the host asked for did not happen: a [`Trap`] of the guest, an error of the host's own functions, or
/// a misuse or a limit, told by a message. One pointer wide.
///
/// `{}` prints the outermost context alone, `{:#}` the whole chain in a line, `{:?}` the chain and the backtrace.
///
/// ```
/// use selvedge::{Error, Trap};
///
/// fn door() -> Result<(), Error> {
///     Err(Trap::Unreachable)?
/// }
/// let error = door().unwrap_err().context("while opening the door");
/// assert_eq!(format!("{error:#}"), "while opening the door: unreachable");
/// assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Unreachable));
/// ```
pub struct Error {
    layer: Box<Layer>,
}

/// What one box holds.
enum Layer {
    Trap {
        trap: Trap,
        backtrace: Option<WasmBacktrace>,
    },
    Foreign(Foreign),
    #[cfg(feature = "anyhow")]
    Anyhow(anyhow::Error),
    Message(String),
    Context {
        context: Box<dyn ContextValue>,
        source: Error,
    },
    /// A cause that is not a trap, with a backtrace; it prints and downcasts as the cause.
    Traced {
        backtrace: WasmBacktrace,
        source: Error,
    },
}

/// An error of the host's.
struct Foreign {
    error: Box<dyn StdError + Send + Sync>,
    /// Makes an `anyhow::Error` of it that can be downcast, which takes its type.
    #[cfg(feature = "anyhow")]
    to_anyhow: fn(Box<dyn StdError + Send + Sync>) -> anyhow::Error,
}

impl Foreign {
    fn new<E: StdError + Send + Sync + 'static>(error: E) -> Foreign {
        Foreign {
            error: Box::new(error),
            #[cfg(feature = "anyhow")]
            to_anyhow: through_anyhow::typed::<E>,
        }
    }

    fn boxed(error: Box<dyn StdError + Send + Sync>) -> Foreign {
        Foreign {
            error,
            #[cfg(feature = "anyhow")]
            to_anyhow: anyhow::Error::from_boxed,
        }
    }
}

/// What can be said about an error: printed always, and found by type when the type is an error itself.
trait ContextValue: fmt::Display + Any + Send + Sync {
    /// The same said about anyhow's error.
    #[cfg(feature = "anyhow")]
    fn said_of(self: Box<Self>, error: anyhow::Error) -> anyhow::Error;
}

impl<C: fmt::Display + Any + Send + Sync> ContextValue for C {
    #[cfg(feature = "anyhow")]
    fn said_of(self: Box<Self>, error: anyhow::Error) -> anyhow::Error {
        error.context(*self)
    }
}

impl Error {
    /// An error of the host's, kept as it is. A [`Trap`] becomes a trap without a backtrace.
    pub fn new<E: StdError + Send + Sync + 'static>(error: E) -> Error {
        match (&error as &dyn Any).downcast_ref::<Trap>() {
            Some(&trap) => Error::trap(trap, None),
            None => Error::of(Layer::Foreign(Foreign::new(error))),
        }
    }

    /// An error of which nothing is known but its message.
    pub fn msg(message: impl fmt::Display) -> Error {
        Error::of(Layer::Message(message.to_string()))
    }

    /// An error that is in a box already. What went from an `Error` into such a box comes out as it was.
    pub fn from_boxed(error: Box<dyn StdError + Send + Sync>) -> Error {
        match error.downcast::<Boxed>() {
            Ok(boxed) => boxed.0,
            Err(error) => match error.downcast_ref::<Trap>() {
                Some(&trap) => Error::trap(trap, None),
                None => Error::of(Layer::Foreign(Foreign::boxed(error))),
            },
        }
    }

    /// The guest stopped with `trap`, at `backtrace` if a walk was made.
    pub(crate) fn trap(trap: Trap, backtrace: Option<WasmBacktrace>) -> Error {
        Error::of(Layer::Trap { trap, backtrace })
    }

    /// The same error, about which `context` says what was being done.
    #[must_use]
    pub fn context<C: fmt::Display + Send + Sync + 'static>(self, context: C) -> Error {
        Error::of(Layer::Context {
            context: Box::new(context),
            source: self,
        })
    }

    /// Whether a context or the cause is an `E`.
    pub fn is<E: StdError + Send + Sync + 'static>(&self) -> bool {
        self.downcast_ref::<E>().is_some()
    }

    /// The outermost context, or else the cause, that is an `E`.
    pub fn downcast_ref<E: StdError + Send + Sync + 'static>(&self) -> Option<&E> {
        self.layers().find_map(|layer| match layer {
            Layer::Trap { trap, .. } => (trap as &dyn Any).downcast_ref(),
            Layer::Foreign(foreign) => foreign.error.downcast_ref(),
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) => error.downcast_ref(),
            Layer::Context { context, .. } => (&**context as &dyn Any).downcast_ref(),
            Layer::Message(_) | Layer::Traced { .. } => None,
        })
    }

    /// As [`downcast_ref`](Error::downcast_ref), mutable.
    pub fn downcast_mut<E: StdError + Send + Sync + 'static>(&mut self) -> Option<&mut E> {
        match &mut *self.layer {
            Layer::Trap { trap, .. } => (trap as &mut dyn Any).downcast_mut(),
            Layer::Foreign(foreign) => foreign.error.downcast_mut(),
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) => error.downcast_mut(),
            Layer::Message(_) => None,
            Layer::Traced { source, .. } => source.downcast_mut(),
            Layer::Context { context, source } => match (&**context as &dyn Any).is::<E>() {
                true => (&mut **context as &mut dyn Any).downcast_mut(),
                false => source.downcast_mut(),
            },
        }
    }

    /// The `E` that [`downcast_ref`](Error::downcast_ref) finds, by value; what lay around it is dropped.
    ///
    /// # Errors
    /// This error, unchanged, when there is none.
    pub fn downcast<E: StdError + Send + Sync + 'static>(self) -> std::result::Result<E, Error> {
        match *self.layer {
            Layer::Trap { trap, backtrace } => {
                downcast_value(trap).map_err(|trap| Error::of(Layer::Trap { trap, backtrace }))
            }
            Layer::Foreign(Foreign {
                error,
                #[cfg(feature = "anyhow")]
                to_anyhow,
            }) => match error.downcast::<E>() {
                Ok(error) => Ok(*error),
                Err(error) => Err(Error::of(Layer::Foreign(Foreign {
                    error,
                    #[cfg(feature = "anyhow")]
                    to_anyhow,
                }))),
            },
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) => error.downcast().map_err(|error| Error::of(Layer::Anyhow(error))),
            Layer::Message(message) => Err(Error::of(Layer::Message(message))),
            Layer::Traced { backtrace, source } => source
                .downcast()
                .map_err(|source| Error::of(Layer::Traced { backtrace, source })),
            Layer::Context { context, source } => match (&*context as &dyn Any).is::<E>() {
                true => (context as Box<dyn Any>)
                    .downcast()
                    .map(|found| *found)
                    .map_err(|_| source),
                false => source
                    .downcast()
                    .map_err(|source| Error::of(Layer::Context { context, source })),
            },
        }
    }

    /// This error's causes from the outside: each context, the cause, and the sources of the cause.
    pub fn chain(&self) -> Chain<'_> {
        Chain {
            next: Some(self.as_std()),
        }
    }

    /// The last of [`chain`](Error::chain).
    pub fn root_cause(&self) -> &(dyn StdError + 'static) {
        self.chain().last().unwrap_or_else(|| self.as_std())
    }

    /// The guest frames that were active when this error ended the guest, if they were collected.
    #[doc(alias = "WasmBacktrace")]
    pub fn backtrace(&self) -> Option<&WasmBacktrace> {
        self.layers().find_map(|layer| match layer {
            Layer::Trap { backtrace, .. } => backtrace.as_ref(),
            Layer::Traced { backtrace, .. } => Some(backtrace),
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) => error.downcast_ref(),
            _ => None,
        })
    }

    /// Adds the backtrace that `take` makes, unless there is one.
    pub(crate) fn set_backtrace(&mut self, take: impl FnOnce() -> WasmBacktrace) {
        match &mut *self.layer {
            Layer::Trap { backtrace, .. } => {
                backtrace.get_or_insert_with(take);
            }
            Layer::Context { source, .. } => source.set_backtrace(take),
            Layer::Traced { .. } => {}
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) if error.is::<WasmBacktrace>() => {}
            cause => {
                let source = Error::of(std::mem::replace(cause, Layer::Message(String::new())));
                *cause = Layer::Traced {
                    backtrace: take(),
                    source,
                };
            }
        }
    }

    fn of(layer: Layer) -> Error {
        Error {
            layer: Box::new(layer),
        }
    }

    /// The boxes from the outside in.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::successors(Some(&*self.layer), |layer| match layer {
            Layer::Context { source, .. } | Layer::Traced { source, .. } => Some(&*source.layer),
            _ => None,
        })
    }

    /// The outermost link of the chain; a cause of another type as itself, so that it can be downcast.
    fn as_std(&self) -> &(dyn StdError + 'static) {
        match &*self.layer {
            Layer::Trap { trap, .. } => trap,
            Layer::Foreign(foreign) => &*foreign.error,
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) => error.as_ref(),
            Layer::Traced { source, .. } => source.as_std(),
            layer => layer,
        }
    }
}

/// `value` as an `E` if that is its type.
fn downcast_value<T: 'static, E: 'static>(value: T) -> std::result::Result<E, T> {
    let mut value = Some(value);
    let found = (&mut value as &mut dyn Any)
        .downcast_mut::<Option<E>>()
        .and_then(Option::take);
    match (found, value) {
        (Some(found), _) => Ok(found),
        (None, Some(value)) => Err(value),
        (None, None) => unreachable!("the value is taken only when it is found"),
    }
}

/// The causes of an [`Error`], see [`Error::chain`].
#[derive(Clone, Debug)]
pub struct Chain<'a> {
    next: Option<&'a (dyn StdError + 'static)>,
}

impl<'a> Iterator for Chain<'a> {
    type Item = &'a (dyn StdError + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let error = self.next?;
        self.next = error.source();
        Some(error)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layer::Trap { trap, .. } => trap.fmt(f),
            Layer::Foreign(foreign) => foreign.error.fmt(f),
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) => fmt::Display::fmt(error, f),
            Layer::Message(message) => f.write_str(message),
            Layer::Context { context, .. } => context.fmt(f),
            Layer::Traced { source, .. } => source.layer.fmt(f),
        }
    }
}

/// The contexts alone; the cause has this form only where it is a message.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Layer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Layer::Context { source, .. } => Some(source.as_std()),
            Layer::Foreign(foreign) => foreign.error.source(),
            #[cfg(feature = "anyhow")]
            Layer::Anyhow(error) => error.source(),
            Layer::Traced { source, .. } => source.as_std().source(),
            Layer::Trap { .. } | Layer::Message(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.layer)?;
        if f.alternate() {
            for cause in self.chain().skip(1) {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

/// The chain, a cause a line, then the backtrace: what `main` prints when it returns the error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.layer)?;
        for (index, cause) in self.chain().skip(1).enumerate() {
            let head = if index == 0 { "\n\nCaused by:" } else { "" };
            write!(f, "{head}\n{index:>5}: {cause}")?;
        }
        match self.backtrace() {
            Some(backtrace) => write!(f, "\n\n{backtrace}"),
            None => Ok(()),
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Error {
        Error::new(error)
    }
}

/// An [`Error`] as a standard one. Made only for what no plain standard error can hold.
#[derive(Debug)]
struct Boxed(Error);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Boxed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.as_std().source()
    }
}

/// A foreign error, or a trap without a backtrace, comes out as itself and can be downcast.
impl From<Error> for Box<dyn StdError + Send + Sync> {
    fn from(error: Error) -> Self {
        match *error.layer {
            Layer::Foreign(foreign) => foreign.error,
            Layer::Trap {
                trap,
                backtrace: None,
            } => Box::new(trap),
            layer => Box::new(Boxed(Error::of(layer))),
        }
    }
}

impl From<Error> for Box<dyn StdError> {
    fn from(error: Error) -> Self {
        Box::<dyn StdError + Send + Sync>::from(error)
    }
}

mod macros;
#[cfg(feature = "anyhow")]
mod through_anyhow;

/// Contexts for results and options.
pub trait Context<T> {
    /// Says what was being done.
    ///
    /// # Errors
    /// The error that was there, with the context; of an option, the context.
    fn context<C: fmt::Display + Send + Sync + 'static>(self, context: C) -> Result<T>;

    /// As [`context`](Context::context), made only when there is an error.
    ///
    /// # Errors
    /// As `context`.
    fn with_context<C: fmt::Display + Send + Sync + 'static>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<C: fmt::Display + Send + Sync + 'static>(self, context: C) -> Result<T> {
        self.map_err(|error| error.into().context(context))
    }

    fn with_context<C: fmt::Display + Send + Sync + 'static>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| error.into().context(context()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context<C: fmt::Display + Send + Sync + 'static>(self, context: C) -> Result<T> {
        self.ok_or_else(|| Error::msg(context))
    }

    fn with_context<C: fmt::Display + Send + Sync + 'static>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.ok_or_else(|| Error::msg(context()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// An error with a source, to see chains go on in a foreign error.
    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }

    impl StdError for Outer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    fn outer() -> Outer {
        Outer(io::Error::other("inner"))
    }

    fn words(error: &Error) -> Vec<String> {
        error.chain().map(ToString::to_string).collect()
    }

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn an_error_crosses_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
    }

    #[test]
    fn question_mark_takes_standard_errors() {
        fn parse() -> Result<u32> {
            Ok("x".parse::<u32>()?)
        }
        assert!(parse().unwrap_err().is::<std::num::ParseIntError>());
    }

    #[test]
    fn a_trap_is_recognised_and_not_boxed_again() {
        for error in [
            Error::from(Trap::OutOfFuel),
            Error::from_boxed(Box::new(Trap::OutOfFuel)),
        ] {
            assert!(matches!(
                *error.layer,
                Layer::Trap {
                    trap: Trap::OutOfFuel,
                    backtrace: None
                }
            ));
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
        }
    }

    #[test]
    fn downcasts_see_through_contexts() {
        let mut error = Error::from(outer()).context("one").context(String::from("two"));
        assert!(error.downcast_ref::<Outer>().is_some());
        assert!(error.downcast_mut::<Outer>().is_some());
        assert!(!error.is::<Trap>());
        let error = error.downcast::<Trap>().unwrap_err();
        assert_eq!(
            words(&error),
            ["two", "one", "outer", "inner"],
            "a failed downcast changes nothing"
        );
        assert_eq!(error.downcast::<Outer>().unwrap().0.to_string(), "inner");
    }

    #[test]
    fn a_trap_is_downcast_by_value_through_contexts() {
        let error = Error::trap(Trap::Unreachable, None).context("calling");
        assert_eq!(error.downcast::<Trap>().unwrap(), Trap::Unreachable);
    }

    #[test]
    fn a_context_that_is_an_error_is_found_before_the_cause() {
        let mut error = Error::msg("host").context(Trap::Interrupt);
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt));
        *error.downcast_mut::<Trap>().unwrap() = Trap::OutOfFuel;
        assert_eq!(error.downcast::<Trap>().unwrap(), Trap::OutOfFuel);
    }

    #[test]
    fn the_chain_goes_on_in_a_foreign_error() {
        let error = Error::from(outer()).context("doing");
        assert_eq!(words(&error), ["doing", "outer", "inner"]);
        assert_eq!(error.root_cause().to_string(), "inner");
        assert!(error.root_cause().is::<io::Error>());
    }

    #[test]
    fn a_backtrace_is_added_once_and_changes_nothing_else() {
        let causes = [
            Error::from(Trap::Unreachable),
            Error::msg("host"),
            Error::from(outer()),
        ];
        for mut error in causes.map(|error| error.context("doing")) {
            let (before, plain) = (words(&error), format!("{error:?}"));
            assert!(error.backtrace().is_none());
            error.set_backtrace(|| WasmBacktrace::new(Vec::new(), 3));
            error.set_backtrace(|| unreachable!("there is one"));
            assert_eq!(error.backtrace().map(WasmBacktrace::omitted), Some(3));
            assert_eq!(words(&error), before);
            assert_eq!(
                format!("{error:?}"),
                format!("{plain}\n\nwasm backtrace:\n       3 more frames")
            );
        }
    }

    #[test]
    fn downcasts_see_through_a_backtrace() {
        let mut error = Error::from(outer());
        error.set_backtrace(|| WasmBacktrace::new(Vec::new(), 0));
        assert!(error.is::<Outer>());
        assert!(error.downcast_mut::<Outer>().is_some());
        let error = error.downcast::<Trap>().unwrap_err();
        assert!(error.backtrace().is_some());
        assert!(error.downcast::<Outer>().is_ok());
    }

    #[test]
    fn display_prints_the_outermost_and_alternate_all() {
        let error = Error::from(Trap::MemoryOutOfBounds).context("calling `f`");
        assert_eq!(error.to_string(), "calling `f`");
        assert_eq!(format!("{error:#}"), "calling `f`: out of bounds memory access");
        assert_eq!(
            format!("{error:?}"),
            "calling `f`\n\nCaused by:\n    0: out of bounds memory access"
        );
        assert_eq!(format!("{:?}", Error::msg("alone")), "alone");
    }

    #[test]
    fn a_boxed_error_keeps_its_type_and_comes_back() {
        let boxed = Box::<dyn StdError + Send + Sync>::from(Error::from(outer()));
        assert!(boxed.is::<Outer>());
        let boxed = Box::<dyn StdError + Send + Sync>::from(Error::from(outer()).context("doing"));
        assert_eq!(boxed.to_string(), "doing");
        assert_eq!(boxed.source().unwrap().to_string(), "outer");
        assert_eq!(words(&Error::from_boxed(boxed)), ["doing", "outer", "inner"]);
    }

    #[test]
    fn results_and_options_take_contexts() {
        let error = Err::<(), _>(Trap::Unreachable)
            .context("a")
            .with_context(|| "b")
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "b: a: unreachable");
        assert_eq!(None::<()>.context("nothing").unwrap_err().to_string(), "nothing");
    }
}
