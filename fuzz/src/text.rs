//! Input from whoever configures a router (control socket, file, environment), and answers of a running router, ours
//! or another implementation's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use laneway::config::env::Environment;
use laneway::config::file::FileConfig;
use laneway::metrics::exposition::Exposition;
use laneway::uapi::client::read_status;
use laneway::uapi::protocol::{Request, RequestParser, get_answer};

/// Parses lines from the control socket. An update has no more peers and networks than lines.
pub fn uapi(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parser = RequestParser::default();
    let mut lines = 0;
    for line in text.split('\n') {
        lines += 1;
        match parser.line(line) {
            Ok(Some(Request::Set(Ok(update)))) => {
                let networks: usize = update.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
                assert!(update.peers.len() + networks <= lines);
                lines = 0;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Parses a configuration file. Errors name file and line.
pub fn config_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let path = Path::new("a/tunnel.conf");
    match FileConfig::parse(path, &text) {
        Ok(file) => {
            assert!(file.update.replace_peers, "a file replaces all peers");
            let again = FileConfig::parse(path, &text).expect("it parsed before");
            assert!(again == file);
        }
        Err(mistake) => {
            let mistake = mistake.to_string();
            assert!(mistake.contains("a/tunnel.conf:"), "{mistake}");
        }
    }
}

/// Parses environment variables, one per line. Errors name the variable.
pub fn environment(bytes: &[u8]) {
    let variables = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&line[..at]), part(&line[at + 1..])))
    });
    if let Err(mistake) = Environment::read(variables) {
        let mistake = mistake.to_string();
        assert!(mistake.contains("LANEWAY_"), "{mistake}");
    }
}

/// Parses an answer to a status request: rejected, or a status that survives a round trip.
pub fn status(bytes: &[u8]) {
    let answer = read_status(bytes).expect("memory can be read");
    let Some(Ok(status)) = answer else { return };
    let networks: usize = status.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    assert!(status.peers.len() + networks <= bytes.split(|byte| *byte == b'\n').count());
    let ours = get_answer(Ok(status.clone()));
    assert_eq!(read_status(ours.as_bytes()).expect("memory can be read"), Some(Ok(status)));
}

/// Parses metrics in the Prometheus text format: every sample is found by name, and errors name the line.
pub fn exposition(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Exposition::parse(&text) {
        Ok(metrics) => {
            let samples =
                text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            for sample in samples {
                let name = sample.split(|c: char| c == '{' || c.is_whitespace()).next().unwrap_or_default();
                assert!(metrics.has(name), "{name:?} is missing");
            }
        }
        Err(mistake) => {
            let mistake = mistake.to_string();
            assert!(mistake.starts_with("line "), "{mistake}");
        }
    }
}
