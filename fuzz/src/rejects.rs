//! Input from the workload: packets that are dropped and may be answered.

use laneway::packet::reject::{Cause, MAX_REJECT, reject};
use laneway::packet::{ip, protocol};

use super::Taker;

/// Rejects a packet: there is no answer, or one whole packet to its sender that itself is never answered, so two
/// routers cannot loop.
pub fn rejects(bytes: &[u8]) {
    let mut take = Taker(bytes);
    let cause = CAUSES[usize::from(take.byte()) % CAUSES.len()];
    let cause = if matches!(cause, Cause::TooBig(_)) { Cause::TooBig(take.u16()) } else { cause };
    let Some(packet) = ip::trimmed(take.0) else { return };
    let mut out = [0xee; MAX_REJECT];
    let Some((_, len)) = reject(packet, cause, &mut out) else { return };
    let (answer, behind) = out.split_at(len);
    assert!(behind.iter().all(|byte| *byte == 0xee), "more was written than was said");

    assert_eq!(ip::packet_len(answer), Some(len));
    assert_eq!(answer[0] >> 4, packet[0] >> 4);
    assert_eq!((ip::source(answer), ip::destination(answer)), (ip::destination(packet), ip::source(packet)));
    let transport = ip::transport(answer).expect("a whole packet has a transport");
    assert!(!transport.fragment);
    assert!(checksums_are_right(answer, transport), "{answer:02x?}");
    for cause in CAUSES {
        assert_eq!(reject(answer, cause, &mut [0; MAX_REJECT]), None, "a reject was rejected");
    }
}

const CAUSES: [Cause; 4] = [Cause::NotAllowed, Cause::NoRoute, Cause::Unreachable, Cause::TooBig(0)];

fn checksums_are_right(packet: &[u8], transport: ip::Transport) -> bool {
    let (header, message) = packet.split_at(transport.offset);
    let pseudo = match transport.protocol {
        protocol::ICMP => Vec::new(),
        number => {
            let addresses = ip::addresses(packet).expect("a whole packet has addresses");
            let len = (message.len() as u32).to_be_bytes();
            [addresses, &[0, number], &len].concat()
        }
    };
    let v4 = packet[0] >> 4 == 4;
    (!v4 || sum(header) == 0xffff) && sum(&[&pseudo, message].concat()) == 0xffff
}

/// The checksum of RFC 1071, literally.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(0, |sum, word| ((sum + word) & 0xffff) + ((sum + word) >> 16)) as u16
}
