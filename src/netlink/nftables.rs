//! Tables of nftables over netlink (nfnetlink; Linux's `include/uapi/linux/netfilter/nf_tables.h`).
//!
//! [`dump`] reads what there is. A [`RuleTable`] holds base chains with rules, all added at once or not at all. Where the kernel
//! supports it (Linux 5.12 and later), the table belongs to the netlink socket that made it, so that it is gone with the
//! process, however that ends.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// Time limit for the kernel's answer.
const PATIENCE: i64 = 5;

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
const DELETE_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_DELTABLE as u16;
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
pub(super) const NEW_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_GETCHAIN as u16;
pub(super) const GET_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_GETRULE as u16;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// `NFT_TABLE_F_OWNER`: the table belongs to the socket.
const OWNED: u32 = 2;

/// Attribute types of `nf_tables.h`.
pub(super) mod attribute {
    pub(in crate::netlink) const TABLE_NAME: u16 = 1;
    pub(in crate::netlink) const TABLE_FLAGS: u16 = 2;
    pub(in crate::netlink) const CHAIN_TABLE: u16 = 1;
    pub(in crate::netlink) const CHAIN_NAME: u16 = 3;
    pub(in crate::netlink) const CHAIN_HOOK: u16 = 4;
    pub(in crate::netlink) const CHAIN_TYPE: u16 = 7;
    pub(in crate::netlink) const HOOK_NUMBER: u16 = 1;
    pub(in crate::netlink) const HOOK_PRIORITY: u16 = 2;
    pub(in crate::netlink) const RULE_TABLE: u16 = 1;
    pub(in crate::netlink) const RULE_CHAIN: u16 = 2;
    pub(in crate::netlink) const RULE_EXPRESSIONS: u16 = 4;
    pub(in crate::netlink) const LIST_ELEMENT: u16 = 1;
    pub(in crate::netlink) const EXPRESSION_NAME: u16 = 1;
    pub(in crate::netlink) const EXPRESSION_DATA: u16 = 2;
    pub(in crate::netlink) const META_REGISTER: u16 = 1;
    pub(in crate::netlink) const META_KEY: u16 = 2;
    pub(in crate::netlink) const PAYLOAD_BASE: u16 = 2;
    pub(in crate::netlink) const PAYLOAD_OFFSET: u16 = 3;
    pub(in crate::netlink) const PAYLOAD_LENGTH: u16 = 4;
    pub(in crate::netlink) const MATCH_NAME: u16 = 1;
    pub(in crate::netlink) const COMPARE_REGISTER: u16 = 1;
    pub(in crate::netlink) const COMPARE_OPERATION: u16 = 2;
    pub(in crate::netlink) const COMPARE_DATA: u16 = 3;
    pub(in crate::netlink) const IMMEDIATE_DATA: u16 = 2;
    pub(in crate::netlink) const DATA_VALUE: u16 = 1;
    pub(in crate::netlink) const DATA_VERDICT: u16 = 2;
    pub(in crate::netlink) const VERDICT_CODE: u16 = 1;
    /// `NLA_F_NESTED`: the value is attributes.
    pub(in crate::netlink) const NESTED: u16 = 0x8000;
}

/// Opens a socket in the calling thread's network namespace.
fn open() -> Result<OwnedFd, Errno> {
    let kind = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
    let socket = socket(AddressFamily::Netlink, kind.0, kind.1, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    Ok(socket)
}

/// Returns all objects of one kind: for each the family and its attributes.
pub(super) fn dump(get: u16, new: u16) -> Result<Vec<(u8, Vec<u8>)>, Errno> {
    let socket = open()?;
    let mut request = Batch { bytes: Vec::new(), sequence: 0 };
    request.raw(get, libc::NLM_F_DUMP as u16, libc::NFPROTO_UNSPEC as u8, 0, &[]);
    sendto(socket.as_raw_fd(), &request.bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut answer = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        for (kind, body) in messages(&answer[..length]) {
            match libc::c_int::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => {
                    let errno = body.first_chunk().copied().map_or(-libc::EIO, i32::from_ne_bytes);
                    return Err(Errno::from_raw(errno.wrapping_neg()));
                }
                // Behind the nfnetlink header.
                _ if kind == new => {
                    let attributes = body.get(4..).unwrap_or_default();
                    found.extend(body.first().map(|family| (*family, attributes.to_vec())));
                }
                _ => {}
            }
        }
    }
}

/// Splits what the kernel sent into messages, each with its type and what follows the header (netlink(7)). Ends at one that
/// is incomplete.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..length)?;
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, message.get(16..)?))
    })
}

/// Splits attributes, each with its type and value. Ends at one that is incomplete.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !attribute::NESTED, value))
    })
}

/// Returns the value of the first attribute at the end of `path`, each nested in the one before.
pub(super) fn nested<'b>(bytes: &'b [u8], path: &[u16]) -> Option<&'b [u8]> {
    path.iter().try_fold(bytes, |bytes, wanted| {
        attributes(bytes).find_map(|(kind, value)| (kind == *wanted).then_some(value))
    })
}

/// A base chain with its rules.
#[derive(Clone, Debug)]
pub(super) struct HookChain {
    /// The chain's name.
    pub(super) name: &'static str,
    /// `nat` or `filter`.
    pub(super) kind: &'static str,
    /// The hook (`NF_INET_*`).
    pub(super) hook: u32,
    /// The priority among the chains of the hook.
    pub(super) priority: i32,
    /// The rules, each a list of expressions.
    pub(super) rules: Vec<Vec<Expression>>,
}

/// An expression of a rule. The first register holds what was loaded last.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    name: &'static str,
    data: Attributes,
}

impl Expression {
    /// Loads metadata of the packet (`NFT_META_*`).
    pub(super) fn meta(key: libc::c_int) -> Self {
        let mut data = Attributes::default();
        data.number(attribute::META_REGISTER, libc::NFT_REG_1 as u32);
        data.number(attribute::META_KEY, key.cast_unsigned());
        Expression { name: "meta", data }
    }

    /// Ends the rule unless the loaded value equals `value` (or, with `negated`, if it does).
    pub(super) fn compare(value: &[u8], negated: bool) -> Self {
        let operation = if negated { libc::NFT_CMP_NEQ } else { libc::NFT_CMP_EQ };
        let mut data = Attributes::default();
        data.number(attribute::COMPARE_REGISTER, libc::NFT_REG_1 as u32);
        data.number(attribute::COMPARE_OPERATION, operation.cast_unsigned());
        let mut nested = Attributes::default();
        nested.bytes(attribute::DATA_VALUE, value);
        data.nest(attribute::COMPARE_DATA, &nested);
        Expression { name: "cmp", data }
    }

    /// Compares the loaded value with an interface's name.
    pub(super) fn compare_name(name: &str, negated: bool) -> Self {
        let mut padded = [0; libc::IFNAMSIZ];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        Self::compare(&padded, negated)
    }

    /// Replaces the source address with that of the outgoing interface.
    pub(super) fn masquerade() -> Self {
        Expression { name: "masq", data: Attributes::default() }
    }
}

/// A table in the kernel. Dropping it removes it.
#[derive(Debug)]
pub(super) struct RuleTable {
    socket: OwnedFd,
    name: String,
    owned: bool,
}

impl RuleTable {
    /// Adds a table of the family `inet`, in the calling thread's network namespace. Replaces one that a killed process
    /// left behind.
    ///
    /// # Errors
    /// The kernel's error. Nothing was added.
    pub(super) fn add(name: &str, chains: &[HookChain]) -> Result<Self, Errno> {
        let mut table = RuleTable { socket: open()?, name: name.to_owned(), owned: true };
        let added = match table.fill(chains) {
            // A kernel before 5.12 does not know the flag.
            Err(Errno::EOPNOTSUPP | Errno::EINVAL) => {
                table.owned = false;
                table.fill(chains)
            }
            added => added,
        };
        match added {
            Ok(()) => Ok(table),
            Err(errno) => {
                // There is nothing to remove on drop.
                table.owned = true;
                Err(errno)
            }
        }
    }

    fn fill(&self, chains: &[HookChain]) -> Result<(), Errno> {
        let mut batch = Batch::begin();
        // Deleting a table that does not exist would fail, so it is created first.
        batch.message(NEW_TABLE, CREATE, &self.name_only());
        batch.message(DELETE_TABLE, 0, &self.name_only());
        let mut table = self.name_only();
        table.number(attribute::TABLE_FLAGS, if self.owned { OWNED } else { 0 });
        batch.message(NEW_TABLE, CREATE, &table);
        for chain in chains {
            let mut hook = Attributes::default();
            hook.number(attribute::HOOK_NUMBER, chain.hook);
            hook.number(attribute::HOOK_PRIORITY, chain.priority.cast_unsigned());
            let mut message = Attributes::default();
            message.text(attribute::CHAIN_TABLE, &self.name);
            message.text(attribute::CHAIN_NAME, chain.name);
            message.nest(attribute::CHAIN_HOOK, &hook);
            message.text(attribute::CHAIN_TYPE, chain.kind);
            batch.message(NEW_CHAIN, CREATE, &message);
            for rule in &chain.rules {
                let mut expressions = Attributes::default();
                for expression in rule {
                    let mut element = Attributes::default();
                    element.text(attribute::EXPRESSION_NAME, expression.name);
                    element.nest(attribute::EXPRESSION_DATA, &expression.data);
                    expressions.nest(attribute::LIST_ELEMENT, &element);
                }
                let mut message = Attributes::default();
                message.text(attribute::RULE_TABLE, &self.name);
                message.text(attribute::RULE_CHAIN, chain.name);
                message.nest(attribute::RULE_EXPRESSIONS, &expressions);
                batch.message(NEW_RULE, CREATE | APPEND, &message);
            }
        }
        batch.send(&self.socket)
    }

    fn name_only(&self) -> Attributes {
        let mut attributes = Attributes::default();
        attributes.text(attribute::TABLE_NAME, &self.name);
        attributes
    }
}

impl RuleTable {
    /// Takes over the table that another process has added through `socket`.
    pub(super) fn inherit(socket: OwnedFd, name: String) -> Self {
        // Deletes it when dropped also if it belongs to the socket, which the other process may have open.
        RuleTable { socket, name, owned: false }
    }

    /// Returns the netlink socket that the table belongs to.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Leaves the table to a process that has taken it over.
    pub(super) fn leave(mut self) {
        self.owned = true;
    }
}

impl Drop for RuleTable {
    fn drop(&mut self) {
        if !self.owned {
            let mut batch = Batch::begin();
            batch.message(DELETE_TABLE, 0, &self.name_only());
            // The network namespace may be gone, and the table with it.
            let _ = batch.send(&self.socket);
        }
    }
}

/// Messages that the kernel carries out together or not at all.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn begin() -> Self {
        let mut batch = Batch { bytes: Vec::new(), sequence: 0 };
        batch.raw(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u16, &[]);
        batch
    }

    fn message(&mut self, kind: u16, flags: u16, attributes: &Attributes) {
        self.raw(kind, flags, libc::NFPROTO_INET as u8, 0, &attributes.0);
    }

    /// Appends a message: the header (netlink(7)), the nfnetlink header, and attributes.
    fn raw(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        let flags = flags | libc::NLM_F_REQUEST as u16 | libc::NLM_F_ACK as u16;
        let is_frame = kind < SUBSYSTEM;
        let flags = if is_frame { libc::NLM_F_REQUEST as u16 } else { flags };
        self.bytes.extend(((16 + 4 + attributes.len()) as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
        self.sequence += 1;
    }

    /// Sends the batch and waits until the kernel has carried it out.
    fn send(mut self, socket: &OwnedFd) -> Result<(), Errno> {
        self.raw(libc::NFNL_MSG_BATCH_END as u16, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u16, &[]);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), &self.bytes, &kernel, MsgFlags::empty())?;
        // Every message but the first and the last is acknowledged.
        let mut awaited = self.sequence - 2;
        let mut answer = vec![0; 1 << 16];
        while awaited > 0 {
            let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            for errno in acknowledgements(&answer[..length]) {
                if errno != 0 {
                    return Err(Errno::from_raw(errno.wrapping_neg()));
                }
                awaited = awaited.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// Returns the error numbers of acknowledgements (netlink(7), `NLMSG_ERROR`). Ends at one that is incomplete.
pub(crate) fn acknowledgements(bytes: &[u8]) -> impl Iterator<Item = i32> {
    messages(bytes).map_while(|(_, body)| body.first_chunk().copied().map(i32::from_ne_bytes))
}

/// Netlink attributes, each padded to four bytes.
#[derive(Clone, Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.put(kind, value);
    }

    /// Adds a number in network byte order, as nfnetlink has them.
    fn number(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.put(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn nest(&mut self, kind: u16, value: &Attributes) {
        self.put(kind | attribute::NESTED, &value.0);
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
