//! Comments that name peers.
//!
//! Two conventions exist. Exporters read `# friendly_name = NAME` anywhere in a `[Peer]` section. Tools that generate
//! files write the name directly above the header: `# Client: NAME (ID)` (wg-easy), `### Client NAME` (the script
//! wireguard-install), and `# friendly_name = NAME` as well.

/// Maximum length of a name in characters; it becomes a metric label.
const LONGEST: usize = 64;

/// A name in a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerName {
    /// The name.
    pub(super) text: String,
    /// Whether the comment may also stand inside the section, rather than only above its header.
    pub(super) inside: bool,
}

/// Returns the name in the comment line `line`, if it holds one.
pub(super) fn name(line: &str) -> Option<PeerName> {
    let comment = line.trim().strip_prefix('#')?;
    let cut = |text: &str| text.trim().chars().take(LONGEST).collect::<String>();
    if let Some((key, text)) = comment.split_once('=')
        && key.trim() == "friendly_name"
    {
        return Some(PeerName { text: cut(text), inside: true });
    }
    let comment = comment.trim_start_matches('#').trim();
    let text = match comment.strip_prefix("Client: ") {
        // wg-easy appends the client's id in parentheses.
        Some(text) => {
            text.rsplit_once(" (").filter(|(_, id)| id.ends_with(')')).map_or(text, |(name, _)| name)
        }
        None if line.trim().starts_with("###") => comment.strip_prefix("Client ")?,
        None => return None,
    };
    Some(PeerName { text: cut(text), inside: false })
}
