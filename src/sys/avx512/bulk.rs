//! The middle of long messages, where cipher and authenticator run side by side.
//!
//! Alone, neither keeps the CPU busy: the cipher's rotations wait for the multiplier's ports, and
//! transpositions for the one unit that moves words across a register. So a double round is followed
//! piece by piece by work on what came earlier. One call goes like this:
//!
//! ```text
//! rounds                 of the next two blocks of each stream
//! added meanwhile        the last two blocks, to 128 bytes of each message (two messages a piece)
//! taken in meanwhile     the 64 bytes of text that were transposed last time, then 64 more
//! transposed meanwhile   these, then the 64 bytes behind them, for the next time
//! ```
//!
//! A block is taken in in three pieces, one for each limb, and after four blocks the sum is reduced:
//! the arithmetic and its bounds are those of [`Authenticators::blocks`].

use core::arch::x86_64::{_mm512_setzero_si512, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64};

use super::LANES;
use super::chacha20::{Squares, Streams, blocks_of_two, double_round, half_round, squares, steps};
use super::messages::Messages;
use super::poly1305::{Authenticators, Block, Products, columns, number};

/// What one call adds, and takes in, of each message.
pub(super) const CHUNK: usize = 128;

/// Half of that: what is transposed ahead.
pub(super) const AHEAD: usize = 64;

/// The low or the high 64 bits, going by `$unpack`, of four blocks of each message from `$at` on.
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

/// Adds two blocks of stream to messages `$k` and `$k + 4`.
macro_rules! add {
    ($stream:ident $k:literal $messages:ident $at:expr) => {
        let [mut a, mut b, mut c, mut d] = blocks_of_two($stream, $k);
        hold!(a, b, c, d);
        // The first two blocks of a stream begin with the authenticator's.
        if let Some(at) = $at {
            $messages.add_whole($k, at, a);
            $messages.add_whole($k + LANES / 2, at, b);
        }
        let at = $at.map_or(0, |at| at + 64);
        $messages.add_whole($k, at, c);
        $messages.add_whole($k + LANES / 2, at, d);
    };
}

/// Adds `stream`, blocks `next - 2` and `next - 1` of every stream, to the messages, and makes it
/// blocks `next` and `next + 1`. Takes in [`CHUNK`] bytes of text from `done` on, of which the first
/// [`AHEAD`] are in `ahead` when it is called, as the [`AHEAD`] bytes behind them all are when it
/// returns.
///
/// The text from `done + AHEAD` on is read after the stream has been added. So when sealing, `stream`
/// has to reach to `done + AHEAD + CHUNK` or further, and when opening to `done + AHEAD` at most.
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
    // Stream block n belongs to the 64 bytes before 64 n.
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
