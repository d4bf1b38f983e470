//! Why a chain takes no more segments.

/// The reason a chain was sealed, of which each chain has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SealReason {
    /// The batch ended. The good case.
    BatchEnd,
    /// A segment with PSH.
    Push,
    /// A segment shorter than the first.
    Short,
    /// A segment longer than the first.
    Long,
    /// As many segments as the kernel takes.
    Segments,
    /// As many bytes as fit.
    Bytes,
    /// Not the next sequence number: a gap, an overlap or a retransmission.
    Sequence,
    /// Another header field differs: acknowledgement, window, options, TOS, TTL and the like.
    Header,
    /// Fragmentable, and not the next identification.
    Identification,
    /// SYN, FIN, RST, URG or CWR.
    Flags,
    /// A pure ACK or an empty datagram.
    NoPayload,
    /// A transport checksum that is wrong, or that UDP left out.
    Checksum,
    /// A packet of the flow with IP options or extension headers, or a fragment between its addresses.
    Ineligible,
    /// A packet that could belong to any flow.
    Unparsable,
}

impl SealReason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [SealReason; 14] = [
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

    /// The value of the `reason` label.
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
