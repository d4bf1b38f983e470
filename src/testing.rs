//! Support for unit tests.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::thread;

use nix::unistd::Uid;

/// Returns whether to skip a test that needs root, and reports it as skipped if so.
pub(crate) fn without_root() -> bool {
    let skip = !Uid::effective().is_root() || std::env::var_os("LANEWAY_SKIP_NETNS").is_some();
    if skip {
        report("needs root and no LANEWAY_SKIP_NETNS");
    }
    skip
}

/// Reports the running test as skipped on standard error, past libtest's capture of `eprintln!`: libtest itself counts
/// it as passed.
pub(crate) fn report(reason: impl Display) {
    let thread = thread::current();
    // libtest names its threads after their tests.
    let name = thread.name().filter(|name| *name != "main").unwrap_or("(this test)");
    // One write, so that parallel tests do not mix their lines.
    let _ = io::stderr().write_all(format!("{name} ... SKIPPED: {reason}\n").as_bytes());
}

/// A directory for one test, removed on drop.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Creates the directory of the test with this name, which no other test has.
    pub(crate) fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("laneway-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
