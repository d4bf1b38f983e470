//! Command line: parses the arguments, runs the command and maps its outcome to an exit status.

pub mod check;
pub mod chosen;
pub mod demo;
pub mod doctor;
pub mod documents;
pub mod down;
pub mod drops;
mod injection;
pub mod interface;
mod kept;
pub mod keys;
pub mod launch;
mod output;
pub mod run;
pub mod show;
pub mod signals;
pub mod top;
mod typo;

use std::env;
use std::io;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, LogFormat};
use crate::router::sandbox::capabilities;
use crate::router::start::StartError;
use crate::router::stopping::StopError;
use crate::router::web::WebError;
use crate::uapi::client::ClientError;
use crate::underlay::BindError;
use check::CheckArgs;
use chosen::ChosenError;
use demo::{DemoArgs, DemoEnd, DemoError};
use doctor::DoctorArgs;
use documents::{DocumentsArgs, DocumentsError};
use down::{DownArgs, DownError};
use drops::{DropsArgs, DropsError};
use keys::KeysError;
use launch::LaunchError;
use run::RunArgs;
use show::{ShowArgs, ShowError};
use signals::EXIT_STUCK;
use top::{TopArgs, TopError};

/// Userspace packet router: multiqueue TUN inside, WireGuard outside
#[derive(Clone, Debug, Parser)]
#[command(name = "laneway", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Cli {
    /// Stay in the foreground, as `WG_PROCESS_FOREGROUND=1` does
    #[arg(short, long)]
    foreground: bool,

    /// Interface to create, to be configured with wg and ip, as with wireguard-go
    #[arg(value_name = "IFNAME")]
    interface: Option<String>,

    #[command(subcommand)]
    command: Option<Command>,
}

/// Named commands.
#[derive(Clone, Debug, Subcommand)]
enum Command {
    Run(RunArgs),
    Check(CheckArgs),
    Demo(DemoArgs),
    Doctor(DoctorArgs),
    Show(ShowArgs),
    Top(TopArgs),
    Drops(DropsArgs),
    Down(DownArgs),
    // For packages.
    #[command(hide = true)]
    Documents(DocumentsArgs),
    /// Print a new private key
    Genkey,
    /// Print a new preshared key
    Genpsk,
    /// Read a private key from standard input and print its public key
    Pubkey,
}

/// Errors of the commands.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file, environment or arguments are invalid. Nothing was created.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates or logins of the metrics are invalid.
    #[error(transparent)]
    Web(#[from] WebError),
    /// A router cannot start with these settings on this machine.
    #[error(transparent)]
    Refused(StartError),
    /// The interface name is missing.
    #[error("the interface name is missing; usage: laneway [-f] IFNAME")]
    NoInterface,
    /// The interface name looks like a mistyped command.
    #[error(
        "`{name}` is not a command; did you mean `laneway {near}`? To create an interface of that name: \
         `laneway -- {name}`"
    )]
    Mistyped {
        /// The name.
        name: String,
        /// The command that was probably meant.
        near: &'static str,
    },
    /// The process cannot go to the background.
    #[error("cannot go to the background: {0}; use -f to stay in the foreground")]
    Background(#[source] io::Error),
    /// Signal handling cannot be set up.
    #[error("cannot set up signal handling: {0}")]
    Signals(#[source] io::Error),
    /// The router did not start, or failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Another process removed this part of a router that `laneway run` started.
    #[error("stopped because another process removed {0}")]
    Removed(&'static str),
    /// The demo failed.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// `laneway show` failed.
    #[error(transparent)]
    Show(#[from] ShowError),
    /// `laneway top` failed.
    #[error(transparent)]
    Top(#[from] TopError),
    /// `laneway drops` failed.
    #[error(transparent)]
    Drops(#[from] DropsError),
    /// `laneway down` failed.
    #[error(transparent)]
    Down(#[from] DownError),
    /// Manual pages or completions cannot be written.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// A key command failed.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl Failure {
    /// Returns the process's exit status: 2 for a configuration error, before anything was created; 3
    /// ([`EXIT_STUCK`]) for a router that did not stop completely; 1 for everything else.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Config(_)
            | Failure::NoInterface
            | Failure::Mistyped { .. }
            | Failure::Show(ShowError::Config(_))
            | Failure::Top(TopError::Config(_))
            | Failure::Drops(DropsError::Config(_))
            | Failure::Down(DownError::Config(_))
            | Failure::Web(_)
            | Failure::Refused(_)
            | Failure::Launch(
                LaunchError::Web(_)
                | LaunchError::Inherited { .. }
                | LaunchError::Start(StartError::Pinning(_) | StartError::Bind(BindError::NoPortsAbove { .. })),
            ) => 2,
            Failure::Launch(LaunchError::Stop(StopError::Stuck(_))) => EXIT_STUCK,
            Failure::Background(_)
            | Failure::Signals(_)
            | Failure::Launch(_)
            | Failure::Removed(_)
            | Failure::Demo(_)
            | Failure::Show(_)
            | Failure::Top(_)
            | Failure::Drops(_)
            | Failure::Down(_)
            | Failure::Documents(_)
            | Failure::Keys(_) => 1,
        }
    }

    /// Returns further lines about an interface that could not be asked: whether it is kept shut.
    pub fn notices(&self) -> Vec<String> {
        let asked = match self {
            Failure::Show(ShowError::Client(error))
            | Failure::Top(TopError::Socket(error))
            | Failure::Drops(DropsError::Socket(error)) => error,
            Failure::Drops(DropsError::Chosen(ChosenError::NoInterface { directory }))
            | Failure::Top(TopError::Chosen(ChosenError::NoInterface { directory })) => {
                return kept::notices(directory);
            }
            _ => return Vec::new(),
        };
        let ClientError::Unserved { path, .. } = asked else { return Vec::new() };
        path.file_stem().and_then(|name| kept::notice(&name.to_string_lossy())).into_iter().collect()
    }
}

impl Cli {
    /// Runs the command to completion and returns the exit status: 0 on success, 1 if `laneway doctor` found
    /// something missing, 4 if the service manager is to start the router again, 130 if the demo was interrupted, or in the
    /// parent of a background process the child's status.
    ///
    /// # Errors
    /// Returns the command's error.
    pub fn execute(self) -> Result<u8, Failure> {
        capabilities::raise();
        match (self.command, self.interface) {
            (Some(Command::Run(args)), _) => return run::run(&args),
            (Some(Command::Check(args)), _) => check::run(&args)?,
            (Some(Command::Doctor(args)), _) => return Ok(doctor::run(&args)),
            (Some(Command::Demo(args)), _) => {
                launch::init_log("warn", LogFormat::Text);
                if demo::routers::run(&args)? == DemoEnd::Interrupted {
                    return Ok(demo::interrupt::EXIT_STATUS);
                }
            }
            (Some(Command::Show(args)), _) => show::run(&args)?,
            (Some(Command::Top(args)), _) => top::run(&args)?,
            (Some(Command::Drops(args)), _) => drops::run(&args)?,
            (Some(Command::Down(args)), _) => down::run(&args)?,
            (Some(Command::Documents(args)), _) => documents::run(&args)?,
            (Some(Command::Genkey), _) => keys::genkey()?,
            (Some(Command::Genpsk), _) => keys::genpsk()?,
            (Some(Command::Pubkey), _) => keys::pubkey()?,
            (None, Some(interface)) => {
                typo::check(&interface, env::args_os().any(|argument| argument == "--"))?;
                return interface::run(&interface, self.foreground);
            }
            (None, None) => return Err(Failure::NoInterface),
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_interface_is_named_as_for_wireguard_go() {
        for line in ["laneway -f wg0", "laneway --foreground wg0", "laneway wg0 -f"] {
            let cli = parse(line).unwrap();
            assert_eq!((cli.foreground, cli.interface.as_deref()), (true, Some("wg0")), "{line}");
        }
        assert!(!parse("laneway wg0").unwrap().foreground);
    }

    #[test]
    fn commands_are_told_from_interfaces() {
        assert!(matches!(parse("laneway run --config x").unwrap().command, Some(Command::Run(_))));
        assert!(matches!(parse("laneway demo --streams 2").unwrap().command, Some(Command::Demo(_))));
        assert!(parse("laneway wg0 wg1").is_err());
        assert!(parse("laneway run wg0").is_err());
    }

    #[test]
    fn the_version_is_printed_as_name_and_number() {
        let answer = parse("laneway --version").unwrap_err();
        assert_eq!(answer.kind(), ErrorKind::DisplayVersion);
        assert_eq!(answer.to_string(), "laneway 0.1.0\n");
    }
}
