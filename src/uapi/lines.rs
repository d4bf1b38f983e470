//! Reads lines that may hold keys: the buffer is wiped as they are consumed.

use std::io;
use std::ops::Range;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::{Zeroize as _, Zeroizing};

/// Size of the buffer in bytes.
const BUFFER: usize = 8192;

/// The lines of a stream.
pub(super) struct Lines<R> {
    stream: R,
    /// Zeros, except in `filled`.
    buffer: Zeroizing<Vec<u8>>,
    filled: Range<usize>,
    /// Length of the line returned last, at the front of `filled`.
    returned: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(stream: R) -> Self {
        Lines { stream, buffer: Zeroizing::new(vec![0; BUFFER]), filled: 0..0, returned: 0 }
    }

    /// Wipes the line returned before and returns the next, with its newline; `None` at the end of the stream,
    /// and if the line has more than `longest` bytes or lacks a newline at the end.
    ///
    /// # Errors
    /// Reading fails.
    pub(super) async fn next(&mut self, longest: usize) -> io::Result<Option<&[u8]>> {
        let consumed = self.filled.start..self.filled.start + self.returned;
        self.filled.start = consumed.end;
        self.buffer[consumed].zeroize();
        loop {
            let waiting = &self.buffer[self.filled.clone()];
            if let Some(end) = waiting.iter().take(longest).position(|byte| *byte == b'\n') {
                self.returned = end + 1;
                return Ok(Some(&self.buffer[self.filled.start..=self.filled.start + end]));
            }
            self.returned = 0;
            if waiting.len() >= longest {
                return Ok(None);
            }
            self.move_to_front();
            let read = self.stream.read(&mut self.buffer[self.filled.end..]).await?;
            if read == 0 {
                return Ok(None);
            }
            self.filled.end += read;
        }
    }

    /// Returns the stream. What was read ahead is wiped.
    pub(super) fn into_stream(self) -> R {
        self.stream
    }

    fn move_to_front(&mut self) {
        let moved = self.filled.len();
        self.buffer.copy_within(self.filled.clone(), 0);
        self.buffer[moved..self.filled.end.max(moved)].zeroize();
        self.filled = 0..moved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    /// Bytes that come in pieces.
    struct Pieces(Vec<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            room: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.0.is_empty() {
                let piece = self.0.remove(0);
                room.put_slice(&piece[..piece.len().min(room.remaining())]);
            }
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn lines_come_out_whole_and_nothing_of_them_stays(
            lines in prop::collection::vec("[a-z]{0,60}", 0..200),
            sizes in prop::collection::vec(1_usize..3000, 1..9),
        ) {
            let mut text: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                if text.is_empty() {
                    break;
                }
                pieces.push(text.drain(..(*size).min(text.len())).collect());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut read = Lines::new(Pieces(pieces));
            for line in &lines {
                let next = runtime.block_on(read.next(256)).unwrap().map(<[u8]>::to_vec);
                prop_assert_eq!(next, Some(format!("{line}\n").into_bytes()));
                let filled = read.filled.clone();
                prop_assert!(read.buffer.iter().enumerate().all(|(i, byte)| *byte == 0 || filled.contains(&i)));
            }
            prop_assert_eq!(runtime.block_on(read.next(256)).unwrap(), None);
            prop_assert!(read.buffer.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_line_that_is_too_long_or_incomplete_is_not_returned() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (text, expected) in [("abc\n", Some("abc\n")), ("abcd\n", None), ("abc", None)] {
            let mut lines = Lines::new(text.as_bytes());
            let line = runtime.block_on(lines.next(4)).unwrap();
            assert_eq!(line, expected.map(str::as_bytes), "{text}");
        }
    }
}
