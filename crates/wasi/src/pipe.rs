//! A standard stream that ends in the host's memory.

use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// `ENOSPC` of Linux and macOS (errno(3)): what a guest sees when the pipe is full.
const NO_SPACE: i32 = 28;
/// `ENOMEM`, as above: the pipe is not full, but the host's memory is.
const NO_MEMORY: i32 = 12;

/// Collects what a guest writes to a standard stream, up to a number of bytes.
///
/// Clones share the bytes. A write that does not fit is cut; one into a full pipe fails for the guest
/// with `ENOSPC`, so that a guest cannot fill the host's memory; and with `ENOMEM` where that is full already.
#[derive(Debug, Clone)]
pub struct OutputPipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    max_bytes: usize,
}

impl OutputPipe {
    /// An empty pipe that takes at most `max_bytes`.
    pub fn new(max_bytes: usize) -> OutputPipe {
        OutputPipe {
            bytes: Arc::default(),
            max_bytes,
        }
    }

    /// A copy of what was written so far.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Write for OutputPipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = buf.len().min(self.max_bytes - bytes.len());
        if taken == 0 && !buf.is_empty() {
            return Err(io::Error::from_raw_os_error(NO_SPACE));
        }
        let reserved = bytes.try_reserve(taken);
        reserved.map_err(|_| io::Error::from_raw_os_error(NO_MEMORY))?;
        bytes.extend_from_slice(&buf[..taken]);
        Ok(taken)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        for buf in bufs {
            match self.write(buf) {
                Ok(taken) => written += taken,
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pipe_cuts_a_write_and_refuses_the_next() {
        let mut pipe = OutputPipe::new(5);
        assert_eq!(pipe.write(b"abc").unwrap(), 3);
        assert_eq!(
            pipe.write_vectored(&[IoSlice::new(b"de"), IoSlice::new(b"f")])
                .unwrap(),
            2
        );
        assert_eq!(pipe.write(b"g").unwrap_err().raw_os_error(), Some(NO_SPACE));
        assert_eq!(pipe.write(b"").unwrap(), 0);
        assert_eq!(pipe.contents(), b"abcde");
    }
}
