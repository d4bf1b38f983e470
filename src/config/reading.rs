//! Reads files that a user names, and PEM in them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Maximum length of a file in bytes. 10,000 peers take 2 MB.
const LONGEST: u64 = 16 << 20;

/// How long a pipe may be without a writer, in milliseconds.
const PATIENCE: u16 = 5000;

/// Reads the file at `path`. A pipe is read to its end, so a shell can pass a file in one. A pipe without a writer is
/// waited for, 5 s at most; one with a writer, until that closes it.
///
/// # Errors
/// The file cannot be read, is longer than 16 MiB, or is a pipe without content.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Without this, opening a pipe waits for a writer without a limit.
    let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let is_pipe = file.metadata()?.file_type().is_fifo();
    let mut bytes = Zeroizing::new(Vec::new());
    if is_pipe {
        // A pipe is at its end as long as it has no writer, and would block if it has one that has written nothing yet.
        let mut first = [0];
        match file.read(&mut first) {
            Ok(0) => await_writer(&file)?,
            Ok(_) => bytes.extend(first),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    }
    read_to_end(&mut file, &mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is longer than 16 MiB"));
    }
    if is_pipe && bytes.is_empty() {
        let why = "it is a pipe without content; what was in it can be read once only";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(bytes)
}

/// Appends the rest of `file`, up to more than [`LONGEST`] bytes. Unlike that of the standard library, wipes each buffer
/// that has become too small.
fn read_to_end(file: &mut File, bytes: &mut Zeroizing<Vec<u8>>) -> io::Result<()> {
    let mut length = bytes.len();
    while length as u64 <= LONGEST {
        if length == bytes.len() {
            let mut larger = Zeroizing::new(vec![0; (2 * length).max(1 << 16)]);
            larger[..length].copy_from_slice(bytes);
            *bytes = larger;
        }
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(())
}

fn await_writer(pipe: &File) -> io::Result<()> {
    match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PATIENCE)? {
        0 => {
            let why = "it is a pipe, and nobody has written to it within 5 s";
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
        _ => Ok(()),
    }
}

/// Returns whether there is a pipe at `path`.
pub(crate) fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo())
}

/// Returns the certificates in the PEM file whose content is `bytes`.
///
/// # Errors
/// A description, for behind the file's name: there is none, or the file is not PEM.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("no certificate in PEM".to_owned()),
        Err(error) => Err(format!("not certificates in PEM: {error}")),
    }
}

/// Returns the private key in the PEM file whose content is `bytes`.
///
/// # Errors
/// A description, for behind the file's name.
pub(crate) fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| format!("not a private key in PEM: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_pipe_is_read_to_its_end_once_and_a_writer_is_waited_for() {
        let name = format!("laneway-pipe-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(is_pipe(&path));
        let later = path.clone();
        let writing = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            fs::write(later, "[Interface]\n").unwrap();
        });
        assert_eq!(&**read(&path).unwrap(), b"[Interface]\n");
        writing.join().unwrap();
        let refused = read(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut, "{refused}");
        std::fs::remove_file(&path).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let reading = std::thread::spawn(move || read(Path::new(&path)).unwrap());
        writer.write_all(b"[Interface]\n").unwrap();
        drop(writer);
        assert_eq!(&**reading.join().unwrap(), b"[Interface]\n");
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        assert_eq!(read(Path::new(&path)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_file_without_an_end_is_an_error() {
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
