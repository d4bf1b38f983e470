//! Tests that cannot run on this machine.
//!
//! libtest can only ignore a test at compile time, so a test that finds out at run time has to return and counts as
//! passed. Each one therefore says so on standard error, past libtest's capture of `eprintln!`.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::thread;

/// Returns from the calling test if `LANEWAY_SKIP_NETNS=1` skips the tests that need root.
///
/// Must be expanded on the test's own thread, in a function that returns `()`.
///
/// # Panics
/// Without that variable, if the process may not create network namespaces and TUN devices.
macro_rules! require_root {
    () => {
        if $crate::support::skip::without_root() {
            return;
        }
    };
}
pub(crate) use require_root;

/// Returns whether to skip a test that needs root, and reports it as skipped if so.
///
/// # Panics
/// As [`require_root`] does.
#[must_use]
pub fn without_root() -> bool {
    if std::env::var_os("LANEWAY_SKIP_NETNS").is_some_and(|skip| skip == "1") {
        report("LANEWAY_SKIP_NETNS=1");
        return true;
    }
    let allowed = laneway::netns::may_administer().expect("read /proc");
    assert!(
        allowed,
        "this test makes network namespaces and TUN devices: run it as root \
         (CAP_NET_ADMIN and CAP_SYS_ADMIN), or set LANEWAY_SKIP_NETNS=1 to skip it"
    );
    false
}

/// Reports the running test, or a part of it, as skipped, even when libtest captures its output.
pub fn report(reason: impl Display) {
    // libtest names its threads after their tests, and with --test-threads=1 prints the name itself.
    let thread = thread::current();
    let name = thread.name().filter(|name| *name != "main").unwrap_or("(this test)");
    // One write, so that parallel tests do not mix their lines.
    let line = format!("{name} ... SKIPPED: {reason}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}
