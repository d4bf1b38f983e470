//! Loads the C library's modules for host names before a sandbox forbids to load code.

/// Loads the modules that `/etc/nsswitch.conf` lists for host names (nsswitch.conf(5)). The C library would
/// load them at the first lookup that needs them, which fails once code can no longer be mapped. Modules that
/// are missing are left out, as the C library does.
#[cfg(target_env = "gnu")]
pub fn load_modules() {
    let settings = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    for module in modules(&settings) {
        let Ok(file) = std::ffi::CString::new(format!("libnss_{module}.so.2")) else { continue };
        // SAFETY: `file` is a NUL-terminated string that outlives the call. The library's initialisers run, as
        // they do when the C library loads the same module for a lookup. The handle is never closed.
        unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_LAZY) };
    }
}

/// Other C libraries have no such modules.
#[cfg(not(target_env = "gnu"))]
pub fn load_modules() {}

/// Returns the names of the modules for host names in the text of `nsswitch.conf`.
#[cfg(target_env = "gnu")]
fn modules(settings: &str) -> impl Iterator<Item = &str> {
    let hosts = settings.lines().filter_map(|line| line.trim_start().strip_prefix("hosts:"));
    let words = hosts.flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    // Words in brackets are actions.
    words.filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #[test]
    fn modules_are_read_without_actions_and_comments() {
        let settings = "passwd: files\n hosts:  files mdns4_minimal [NOTFOUND=return] dns # resolve\n";
        assert_eq!(super::modules(settings).collect::<Vec<_>>(), ["files", "mdns4_minimal", "dns"]);
        super::load_modules();
    }
}
