//! Why a pool has no stack to give.

use core::fmt;

use crate::stack::limits::KernelLimit;

/// Why a pool has no stack to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// All stacks are taken.
    Full {
        /// How many are taken.
        in_use: usize,
        /// [`PoolConfig::max_stacks`](super::PoolConfig::max_stacks).
        max_stacks: usize,
    },
    /// A number of the configuration is out of range.
    Config {
        /// The name of the field.
        field: &'static str,
        /// What it was.
        value: usize,
        /// The smallest allowed value.
        min: usize,
        /// The largest allowed value.
        max: usize,
    },
    /// The process-wide region has no room left for this stack size.
    RegionFull {
        /// Bytes that were wanted.
        wanted_bytes: usize,
        /// Bytes of the region that no pool has had yet.
        free_bytes: usize,
        /// Size of the region, in bytes: [`GRANULE_COUNT`](super::GRANULE_COUNT) granules, or what the kernel gave.
        region_bytes: usize,
        /// The limit that kept the region from being larger, when it was reserved; `None` when it has its full size.
        limit: Option<KernelLimit>,
    },
    /// The kernel did not give address space.
    Reserve {
        /// Bytes that were wanted.
        bytes: usize,
        /// Its error number.
        errno: i32,
        /// The limit that was met.
        limit: KernelLimit,
    },
    /// The kernel did not make reserved memory usable.
    Commit {
        /// Bytes that were wanted.
        bytes: usize,
        /// Its error number.
        errno: i32,
        /// The limit that was met.
        limit: KernelLimit,
    },
    /// The kernel did not make a guard.
    Guard {
        /// How many guards this extent of the pool had already.
        guards: usize,
        /// Its error number.
        errno: i32,
        /// The limit that was met.
        limit: KernelLimit,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PoolError::Full { in_use, max_stacks } => {
                write!(f, "stack pool is full: {in_use} of {max_stacks} in use")
            }
            PoolError::Config {
                field,
                value,
                min,
                max,
            } => {
                write!(f, "stack pool: {field} is {value}, allowed is {min} to {max}")
            }
            PoolError::RegionFull {
                wanted_bytes,
                free_bytes,
                region_bytes,
                limit,
            } => {
                write!(
                    f,
                    "stack region is full: {wanted_bytes} bytes wanted, {free_bytes} of {region_bytes} free"
                )?;
                match limit {
                    Some(limit) => write!(f, "; a larger one was refused: {limit}"),
                    None => Ok(()),
                }
            }
            PoolError::Reserve { bytes, errno, limit } => {
                write!(
                    f,
                    "cannot reserve {bytes} bytes for stacks: error {errno}, {limit}"
                )
            }
            PoolError::Commit { bytes, errno, limit } => {
                write!(
                    f,
                    "cannot make {bytes} bytes of stacks usable: error {errno}, {limit}"
                )
            }
            PoolError::Guard { guards, errno, limit } => {
                write!(
                    f,
                    "cannot make guard {guards} of an extent: error {errno}, {limit}"
                )
            }
        }
    }
}

impl std::error::Error for PoolError {}
