//! Landlock (landlock(7)): files that a running router may change. It may read what its user may read, but
//! changes nothing except its control socket's directory, the TUN device and `/dev/null`, and executes nothing.

use std::path::Path;

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, path_beneath_rules,
};

/// The device that TUN queues are opened through.
const TUN: &str = "/dev/net/tun";

/// What the standard streams of a background process are replaced with.
const NULL: &str = "/dev/null";

/// Restricts the calling thread, and those it starts later, for good. `sockets` is the directory of the
/// control socket, which must exist. Returns whether the kernel enforces the restriction: not before Linux
/// 5.19, or if Landlock is disabled. Kernels before 6.10 enforce a part.
///
/// # Errors
/// Fails if the kernel refuses the rules.
pub fn restrict(sockets: &Path) -> Result<bool, RulesetError> {
    let handled: BitFlags<AccessFs> = AccessFs::from_write(ABI::V5) | AccessFs::Execute;
    let device = AccessFs::WriteFile | AccessFs::IoctlDev;
    // The control socket is bound in a directory beside its final place and moved (`Refer`, since Linux 5.19).
    let directory =
        AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::MakeDir | AccessFs::RemoveDir | AccessFs::Refer;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .create()?
        .add_rules(path_beneath_rules([TUN], device))?
        .add_rules(path_beneath_rules([NULL], AccessFs::WriteFile))?
        .add_rules(path_beneath_rules([sockets], directory))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::PermissionDenied;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_reads_everything_and_changes_only_the_directory_of_sockets() {
        let folder = std::env::temp_dir().join(format!("laneway-files-{}", std::process::id()));
        let sockets = folder.join("sockets");
        fs::create_dir_all(&sockets).unwrap();
        let file = folder.join("file");
        fs::write(&file, "before").unwrap();
        let (inside, outside) = (sockets.join("a.sock"), folder.join("a.sock"));
        // Landlock is per thread, so other tests are not affected.
        let thread = thread::spawn(move || {
            if !restrict(&sockets).unwrap() {
                eprintln!("skipped: this kernel has no Landlock");
                return;
            }
            for refused in [
                fs::write(&file, "after"),
                fs::write(sockets.join("file"), "new"),
                fs::remove_file(&file),
                UnixListener::bind(&outside).map(drop),
                fs::write("/proc/self/comm", "other"),
                Command::new("/bin/true").status().map(drop),
            ] {
                assert_eq!(refused.unwrap_err().kind(), PermissionDenied);
            }
            assert_eq!(fs::read_to_string(&file).unwrap(), "before");
            UnixListener::bind(&inside).unwrap();
            fs::rename(&inside, sockets.join("b.sock")).unwrap();
            fs::create_dir(sockets.join("own")).unwrap();
            UnixListener::bind(sockets.join("own/a.sock")).unwrap();
            fs::rename(sockets.join("own/a.sock"), sockets.join("b.sock")).unwrap();
            fs::remove_dir(sockets.join("own")).unwrap();
            fs::remove_file(sockets.join("b.sock")).unwrap();
        });
        thread.join().unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
