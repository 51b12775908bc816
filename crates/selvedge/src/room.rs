//! Room for lists whose length a guest or its module decides: where the system has none, that is an error with the bytes asked for.
//!
//! What is of a size of its own is allocated as everywhere in Rust, and ends the process where the system has nothing left:
//! `tests/tests/faults/allocations.rs` lists where.

use crate::error::{Error, Result};

/// The error of a request for so many bytes.
#[cold]
pub(crate) fn refused(bytes: usize, what: &str) -> Error {
    Error::msg(format!("the system refuses {bytes} bytes for {what}"))
}

/// Makes room for so many more elements; `what` says in an error what they are.
///
/// # Errors
/// No memory.
pub(crate) fn reserve<T>(list: &mut Vec<T>, more: usize, what: &str) -> Result<()> {
    let reserved = list.try_reserve(more);
    reserved.map_err(|_| {
        refused(
            list.len().saturating_add(more).saturating_mul(size_of::<T>()),
            what,
        )
    })
}

/// Adds an element.
///
/// # Errors
/// As for [`reserve`].
pub(crate) fn push<T>(list: &mut Vec<T>, value: T, what: &str) -> Result<()> {
    reserve(list, 1, what)?;
    list.push(value);
    Ok(())
}

/// A list of as many as there are.
///
/// # Errors
/// The first of an element, and as for [`reserve`].
pub(crate) fn collect<T>(items: impl Iterator<Item = Result<T>>, what: &str) -> Result<Vec<T>> {
    let mut list = Vec::new();
    reserve(&mut list, items.size_hint().0, what)?;
    for item in items {
        push(&mut list, item?, what)?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_collected_up_to_the_first_error() {
        let numbers = collect((0..5).map(Ok), "numbers").unwrap();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let odd = collect((0..5).filter(|n| n % 2 == 1).map(Ok), "odd numbers").unwrap();
        assert_eq!(odd, [1, 3]);
        let failed = collect(
            (0..5).map(|n| if n < 3 { Ok(n) } else { Err(Error::msg(n)) }),
            "numbers",
        );
        assert_eq!(failed.unwrap_err().to_string(), "3");
    }

    #[test]
    fn what_is_too_much_is_an_error_with_the_bytes() {
        let mut list = vec![0_u64; 3];
        let error = reserve(&mut list, isize::MAX as usize / 8, "numbers").unwrap_err();
        let bytes = (isize::MAX as usize / 8 + 3) * 8;
        assert_eq!(
            error.to_string(),
            format!("the system refuses {bytes} bytes for numbers")
        );
        assert_eq!(list, [0; 3]);
    }
}
