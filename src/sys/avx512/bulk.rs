//! The middle of long messages, with cipher and authenticator interleaved.
//!
//! Neither keeps the CPU busy by itself: the cipher's rotations compete for the multiplier's ports, and
//! transpositions for the single unit that moves words across a register. Each half round is therefore
//! followed by a piece of work on earlier blocks. One call performs:
//!
//! ```text
//! rounds        the next two blocks of each stream
//! add           the previous two blocks to 128 bytes of each message (two messages per piece)
//! authenticate  the 64 bytes of text transposed by the previous call, then 64 more
//! transpose     those 64 bytes, then the 64 bytes after them, for the next call
//! ```
//!
//! A block is authenticated in three pieces, one per limb, and the sum is reduced after four blocks. The
//! arithmetic and its bounds are those of [`Authenticators::blocks`].

use core::arch::x86_64::{_mm512_setzero_si512, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64};

use super::LANES;
use super::chacha20::{Squares, Streams, blocks_of_two, double_round, half_round, squares, steps};
use super::messages::Messages;
use super::poly1305::{Authenticators, Block, Products, columns, number};

/// Bytes of each message that one call encrypts or decrypts, and authenticates.
pub(super) const CHUNK: usize = 128;

/// Bytes of each message that are transposed ahead for the next call: half of [`CHUNK`].
pub(super) const AHEAD: usize = 64;

/// Transposes the low or the high 64 bits, selected by `$unpack`, of four 16-byte blocks of each message
/// from `$at` on.
macro_rules! transpose {
    ($unpack:ident $half:literal $messages:ident $at:expr => $to:ident) => {
        let [mut a, mut b, mut c, mut d] = columns([
            $unpack($messages.whole(0, $at), $messages.whole(1, $at)),
            $unpack($messages.whole(2, $at), $messages.whole(3, $at)),
            $unpack($messages.whole(4, $at), $messages.whole(5, $at)),
            $unpack($messages.whole(6, $at), $messages.whole(7, $at)),
        ]);
        hold!(a, b, c, d);
        ($to[0][$half], $to[1][$half], $to[2][$half], $to[3][$half]) = (a, b, c, d);
    };
}

/// Adds two blocks of key stream to messages `$k` and `$k + 4`.
macro_rules! add {
    ($stream:ident $k:literal $messages:ident $at:expr) => {
        let [mut a, mut b, mut c, mut d] = blocks_of_two($stream, $k);
        hold!(a, b, c, d);
        // Block 0 of a stream is the authenticator's and is not added.
        if let Some(at) = $at {
            $messages.add_whole($k, at, a);
            $messages.add_whole($k + LANES / 2, at, b);
        }
        let at = $at.map_or(0, |at| at + 64);
        $messages.add_whole($k, at, c);
        $messages.add_whole($k + LANES / 2, at, d);
    };
}

/// Adds `stream`, blocks `next - 2` and `next - 1` of every stream, to the messages and replaces it by
/// blocks `next` and `next + 1`. Authenticates [`CHUNK`] bytes of text from `done` on. On entry, `ahead`
/// holds the first [`AHEAD`] of these bytes, transposed; on return, the [`AHEAD`] bytes after them.
///
/// The text from `done + AHEAD` on is read after the stream has been added. `stream` must therefore reach
/// to at least `done + AHEAD + CHUNK` when sealing, and to at most `done + AHEAD` when opening.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
pub(super) fn chunk(
    streams: &Streams<'_>,
    next: u32,
    stream: &mut Squares,
    messages: &mut Messages<'_>,
    authenticators: &mut Authenticators,
    ahead: &mut [Block; 4],
    done: usize,
) {
    // Stream block n covers the 64 bytes of text that end at offset 64 n.
    let at = (next as usize * 64).checked_sub(3 * 64);
    let (here, after) = (done + AHEAD, done + CHUNK);
    let mut text = [[_mm512_setzero_si512(); 2]; 4];
    let [r, r2, r3, r4] = &authenticators.powers;

    let mut v = streams.begin(next);
    let mut x = authenticators.plus(ahead[0]);
    let mut sum = Products::none();
    double_round!(diagonals v { add!(stream 0 messages at); } { sum.add_row(x, r4, 0); });
    double_round!(v
        { sum.add_row(x, r4, 1); }
        { add!(stream 1 messages at); }
        { sum.add_row(x, r4, 2); x = number(ahead[1]); }
        { sum.add_row(x, r3, 0); });
    double_round!(v
        { add!(stream 2 messages at); }
        { sum.add_row(x, r3, 1); }
        { sum.add_row(x, r3, 2); x = number(ahead[2]); }
        { add!(stream 3 messages at); });
    double_round!(v
        { sum.add_row(x, r2, 0); }
        { sum.add_row(x, r2, 1); }
        { transpose!(_mm512_unpacklo_epi64 0 messages here => text); }
        { sum.add_row(x, r2, 2); x = number(ahead[3]); });
    double_round!(v
        { sum.add_row(x, r, 0); }
        { transpose!(_mm512_unpackhi_epi64 1 messages here => text); }
        { sum.add_row(x, r, 1); }
        { sum.add_row(x, r, 2); });
    let [mut a, mut b, mut c];
    double_round!(v
        { [a, b, c] = sum.reduced(); hold!(a, b, c); authenticators.accumulator = [a, b, c]; }
        { sum = Products::none(); }
        { x = authenticators.plus(text[0]); sum.add_row(x, r4, 0); }
        { sum.add_row(x, r4, 1); });
    double_round!(v
        { transpose!(_mm512_unpacklo_epi64 0 messages after => ahead); }
        { sum.add_row(x, r4, 2); x = number(text[1]); }
        { sum.add_row(x, r3, 0); }
        { sum.add_row(x, r3, 1); });
    double_round!(v
        { sum.add_row(x, r3, 2); x = number(text[2]); }
        {}
        { sum.add_row(x, r2, 0); }
        { sum.add_row(x, r2, 1); });
    double_round!(v
        { transpose!(_mm512_unpackhi_epi64 1 messages after => ahead); }
        { sum.add_row(x, r2, 2); x = number(text[3]); }
        { sum.add_row(x, r, 0); }
        {});
    double_round!(v
        { sum.add_row(x, r, 1); }
        { sum.add_row(x, r, 2); }
        {}
        { authenticators.accumulator = sum.reduced(); });
    *stream = squares(&streams.end(next, v));
}
