//! Reads files that a user names, and PEM in them.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Maximum length of a file in bytes. 10,000 peers take 2 MB.
const LONGEST: u64 = 16 << 20;

/// Reads the file at `path`. A pipe is read to its end, so a shell can pass a file in one; a pipe without a writer is
/// empty rather than waited for.
///
/// # Errors
/// The file cannot be read, or is longer than 16 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Without this, opening a pipe waits for a writer.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is longer than 16 MiB"));
    }
    Ok(bytes)
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
    fn a_pipe_without_a_writer_is_empty_and_one_with_a_writer_is_read_to_its_end() {
        let name = format!("laneway-pipe-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&path).unwrap().is_empty());
        std::fs::remove_file(&path).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let reading = std::thread::spawn(move || read(Path::new(&path)).unwrap());
        writer.write_all(b"[Interface]\n").unwrap();
        drop(writer);
        assert_eq!(&**reading.join().unwrap(), b"[Interface]\n");
        drop(reader);
    }

    #[test]
    fn a_file_without_an_end_is_an_error() {
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
