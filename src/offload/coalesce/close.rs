//! Reasons why a chain was closed to further segments.

/// Reason why a chain was closed. Each chain has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The batch ended: the normal case.
    BatchEnd,
    /// A segment has PSH set.
    Push,
    /// A segment is shorter than the first.
    Short,
    /// The next segment is longer than the first.
    Long,
    /// The superpacket has the maximum number of segments.
    Segments,
    /// The next segment would exceed the maximum number of bytes.
    Bytes,
    /// The next segment does not have the expected sequence number: a gap, an overlap or a
    /// retransmission.
    Sequence,
    /// Another header field differs, such as acknowledgement, window, options, TOS or TTL.
    Header,
    /// The next packet may be fragmented and does not have the expected identification.
    Identification,
    /// The flow has a packet with SYN, FIN, RST, URG or CWR, without ACK, or with a reserved bit set.
    Flags,
    /// The flow has a pure ACK or an empty datagram.
    NoPayload,
    /// A transport checksum is wrong, or UDP has none.
    Checksum,
    /// The flow has a packet with IP options, extension headers, a wrong IPv4 header checksum or a
    /// mismatched UDP length, or a fragment was seen between its addresses.
    Ineligible,
    /// A packet could not be parsed, so it may belong to any flow.
    Unparsable,
}

impl CloseReason {
    /// All reasons, in discriminant order.
    pub const ALL: [CloseReason; 14] = [
        Self::BatchEnd,
        Self::Push,
        Self::Short,
        Self::Long,
        Self::Segments,
        Self::Bytes,
        Self::Sequence,
        Self::Header,
        Self::Identification,
        Self::Flags,
        Self::NoPayload,
        Self::Checksum,
        Self::Ineligible,
        Self::Unparsable,
    ];

    /// Returns the value of the `reason` metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BatchEnd => "batch_end",
            Self::Push => "push",
            Self::Short => "short",
            Self::Long => "long",
            Self::Segments => "segments",
            Self::Bytes => "bytes",
            Self::Sequence => "sequence",
            Self::Header => "header",
            Self::Identification => "identification",
            Self::Flags => "flags",
            Self::NoPayload => "no_payload",
            Self::Checksum => "checksum",
            Self::Ineligible => "ineligible",
            Self::Unparsable => "unparsable",
        }
    }
}
