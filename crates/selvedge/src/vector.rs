//! Vectors: 128 bits, in lanes as an operator sees them.

use std::fmt;

/// A vector of 128 bits. Lane 0 has the lowest bits, as a guest's memory holds it.
///
/// ```
/// use selvedge::V128;
/// let vector = V128::from(0x0f0e0d0c_0b0a0908_07060504_03020100);
/// assert_eq!(vector.to_le_bytes()[1], 1);
/// assert_eq!(V128::from_le_bytes(vector.to_le_bytes()), vector);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct V128(u128);

impl V128 {
    /// A vector from the bytes that it has in memory.
    pub const fn from_le_bytes(bytes: [u8; 16]) -> V128 {
        V128(u128::from_le_bytes(bytes))
    }

    /// All bits, lane 0 in the lowest.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The bytes that it has in memory.
    pub const fn to_le_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

impl From<u128> for V128 {
    fn from(bits: u128) -> V128 {
        V128(bits)
    }
}

impl From<V128> for u128 {
    fn from(vector: V128) -> u128 {
        vector.0
    }
}

impl fmt::Debug for V128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V128({:#034x})", self.0)
    }
}
