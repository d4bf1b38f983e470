//! Seals and opens single messages as the workers do, for tests and fuzz targets.

use super::messages::{DATA_HEADER, DATA_OVERHEAD, data_receiver};
use super::outputs::Outputs;
use super::protocol::Protocol;
use super::session::{OpenedRun, Session};
use super::table::SessionTable;
use crate::clock::simulated::unix;
use crate::drops::{DropReason, DropTally};
use crate::units::Nanos;

/// Seals a packet as an inside worker does, padded with zeros to `padded` bytes. Returns `None` if the session has no
/// counter left.
pub(crate) fn seal(session: &Session, now: Nanos, packet: &[u8], padded: usize) -> Option<Vec<u8>> {
    let counter = session.reserve(1)?;
    let mut datagram = vec![0; padded + DATA_OVERHEAD];
    datagram[DATA_HEADER..DATA_HEADER + packet.len()].copy_from_slice(packet);
    let len = datagram.len();
    session.seal_run(counter, &mut datagram, len);
    if packet.is_empty() {
        session.activity().sent_keepalive(now);
    } else {
        session.activity().sent_data(now);
    }
    Some(datagram)
}

/// Opens a data message as an outside worker does. Returns its plaintexts, with their padding.
pub(crate) fn open(
    table: &SessionTable,
    protocol: &mut Protocol,
    now: Nanos,
    datagram: &[u8],
    out: &mut Outputs,
) -> Result<Vec<Vec<u8>>, DropReason> {
    let session = table.get(data_receiver(datagram)).ok_or(DropReason::UnknownIndex)?;
    if !session.can_receive(now) {
        return Err(DropReason::SessionExpired);
    }
    let (mut run, mut opened, mut drops) = (datagram.to_vec(), OpenedRun::new(), DropTally::default());
    session.open_run(&mut run, datagram.len(), &mut opened, &mut drops);
    let mut reason = None;
    drops.take(|dropped, _| reason = Some(dropped));
    if let Some(reason) = reason {
        return Err(reason);
    }
    if session.awaits_confirmation() {
        protocol.confirmed(unix(now), &session, out);
    }
    if opened[0].len == 0 {
        session.activity().received_keepalive(now);
    } else {
        session.activity().received_data(now);
    }
    Ok(opened.iter().map(|o| run[o.offset as usize..][..o.len as usize].to_vec()).collect())
}
