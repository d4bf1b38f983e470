//! `laneway documents FOLDER`: writes manual pages and shell completions, for packages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::Cli;

/// Write manual pages and shell completions
#[derive(Clone, Debug, Args)]
pub struct DocumentsArgs {
    /// Folder to write to; it is created if it is missing
    folder: PathBuf,
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot write: {source}", path.display())]
pub struct DocumentsError {
    path: PathBuf,
    source: io::Error,
}

/// Files and folders of `laneway(8)`.
const FILES: [(&str, &str); 3] = [
    ("/etc/laneway/IFNAME.conf", "Configuration of laneway@IFNAME.service; see laneway.conf(5)."),
    ("/etc/laneway/IFNAME.env", "Environment variables of laneway@IFNAME.service; see laneway.conf(5)."),
    ("/var/run/wireguard/IFNAME.sock", "Control socket, which wg(8) and laneway show use."),
];

/// Exit statuses of `laneway(8)`.
const STATUSES: [(&str, &str); 4] = [
    ("0", "Success."),
    ("1", "Failure; for laneway doctor, something that a router needs is missing."),
    ("2", "A mistake in the arguments, the environment or the configuration. Nothing was created."),
    ("3", "The router was told to stop, but a thread did not end in time."),
];

/// Writes `laneway.8`, a page for each command, and completions for bash, zsh and fish.
///
/// # Errors
/// A file cannot be written.
pub fn run(args: &DocumentsArgs) -> Result<(), DocumentsError> {
    let folder = &args.folder;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DocumentsError { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let mut cli = Cli::command();
    cli.build();
    for page in pages(&cli) {
        let path = folder.join(format!("{}.8", page.0));
        fs::write(&path, page.1).map_err(failed(&path))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "laneway", folder).map_err(failed(folder))?;
    }
    Ok(())
}

/// Returns the name and text of each manual page.
fn pages(cli: &clap::Command) -> Vec<(String, Vec<u8>)> {
    let named =
        |command: &clap::Command| (command.get_display_name().unwrap_or("laneway").to_owned(), page(command));
    let mut main = named(cli);
    let mut more = Roff::new();
    for (title, entries) in [("FILES", &FILES[..]), ("EXIT STATUS", &STATUSES[..])] {
        more.control("SH", [title]);
        for (entry, text) in entries {
            more.control("TP", []).text([bold(*entry)]).text([roman(*text)]);
        }
    }
    more.control("SH", ["SEE ALSO"])
        .text([roman("laneway.conf(5), wg(8), wg-quick(8), ip(8), systemd.unit(5)")]);
    main.1.extend(more.render().into_bytes());
    let commands =
        cli.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    std::iter::once(main).chain(commands.map(named)).collect()
}

fn page(command: &clap::Command) -> Vec<u8> {
    let mut text = Vec::new();
    let man = Man::new(command.clone().disable_help_subcommand(true))
        .section("8")
        .manual("System administration")
        .source(concat!("laneway ", env!("CARGO_PKG_VERSION")))
        // No date, so that the same source gives the same page.
        .date("");
    // Writing to memory does not fail.
    let _ = man.render(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_a_completion() {
        let folder = std::env::temp_dir().join(format!("laneway-documents-{}", std::process::id()));
        run(&DocumentsArgs { folder: folder.clone() }).unwrap();
        let read = |name: &str| {
            fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let main = read("laneway.8");
        for part in ["EXIT STATUS", "laneway.conf(5)", "/etc/laneway/IFNAME.conf"] {
            assert!(main.contains(part), "{part} is not in\n{main}");
        }
        let completions = ["laneway.bash", "_laneway", "laneway.fish"].map(read);
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            if command.is_hide_set() {
                assert!(!folder.join(format!("laneway-{name}.8")).exists(), "{name} is hidden");
                continue;
            }
            assert!(read(&format!("laneway-{name}.8")).contains(".TH"), "{name}");
            for text in &completions {
                assert!(text.contains(name), "{name} is not completed");
            }
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
