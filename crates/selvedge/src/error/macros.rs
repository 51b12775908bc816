//! Errors by a message, in a word: those who come from anyhow or Wasmtime write them so.

/// An [`Error`](crate::Error) from a message, as of `format!`.
///
/// ```
/// let error = selvedge::format_err!("{} sheep, expected {}", 3, 4);
/// assert_eq!(error.to_string(), "3 sheep, expected 4");
/// ```
#[macro_export]
macro_rules! format_err {
    ($($message:tt)*) => {
        $crate::Error::msg(::std::format!($($message)*))
    };
}

/// Returns an [`Error`](crate::Error) from a message, as of `format!`.
///
/// ```
/// fn head(bytes: &[u8]) -> selvedge::Result<u8> {
///     let [first, ..] = bytes else { selvedge::bail!("{} bytes have no head", bytes.len()) };
///     Ok(*first)
/// }
/// assert_eq!(head(&[]).unwrap_err().to_string(), "0 bytes have no head");
/// ```
#[macro_export]
macro_rules! bail {
    ($($message:tt)*) => {
        return ::std::result::Result::Err($crate::format_err!($($message)*).into())
    };
}

/// Returns an [`Error`](crate::Error) where a condition does not hold: its text, or a message.
///
/// ```
/// fn check(length: usize) -> selvedge::Result<()> {
///     selvedge::ensure!(length > 0);
///     selvedge::ensure!(length < 10, "{length} is too long");
///     Ok(())
/// }
/// assert_eq!(check(0).unwrap_err().to_string(), "not so: length > 0");
/// assert_eq!(check(10).unwrap_err().to_string(), "10 is too long");
/// ```
#[macro_export]
macro_rules! ensure {
    ($condition:expr $(,)?) => {
        $crate::ensure!($condition, "not so: {}", ::std::stringify!($condition))
    };
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            $crate::bail!($($message)*);
        }
    };
}
