//! `tipring token add|list|revoke`: on the database in a node's data folder, whether the node serves or not.

use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde_json::json;
use tipring::base::time::UnixTime;
use tipring::process::config::Config;
use tipring::process::exit;
use tipring::process::exit::Failure;
use tipring::process::side::command;
use tipring::process::side::command::NewToken;
use tipring::process::side::command::Role;
use tipring::process::side::command::Token;
use tipring::process::side::command::TokenAnswer;
use tipring::process::side::command::TokenCommand;

use crate::complain;
use crate::say;

#[derive(Subcommand)]
pub(crate) enum TokenCli {
    /// Make a token and print it; it cannot be shown again
    Add {
        name: String,
        /// admin, operator, read or recordings
        #[arg(long, default_value = "read", value_parser = parse_role)]
        role: Role,
        /// Only this tenant; may be given several times. Default: all
        #[arg(long = "tenant")]
        tenants: Vec<String>,
        /// An RFC 3339 time, such as 2027-01-01T00:00:00Z. Default: never
        #[arg(long, value_parser = parse_time)]
        expires: Option<UnixTime>,
        #[command(flatten)]
        place: Place,
    },
    /// All tokens, without what they are
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Make a token worthless
    Revoke {
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Whose tokens, and how the answer is printed.
#[derive(Args)]
pub(crate) struct Place {
    /// The node's configuration file; default: the folder tipring-data here
    #[arg(long)]
    config: Option<PathBuf>,
    /// JSON for programs
    #[arg(long)]
    json: bool,
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "expected admin, operator, read or recordings".to_owned())
}

fn parse_time(text: &str) -> Result<UnixTime, String> {
    command::parse_time(text).ok_or_else(|| "expected an RFC 3339 time".to_owned())
}

/// Returns the exit code.
pub(crate) fn run(cli: TokenCli) -> u8 {
    let (place, command) = match cli {
        TokenCli::Add { name, role, tenants, expires, place } => {
            let tenants = Some(tenants).filter(|tenants| !tenants.is_empty());
            (place, TokenCommand::Add(NewToken { name, role, tenants, expires_at: expires }))
        }
        TokenCli::List { place } => (place, TokenCommand::List),
        TokenCli::Revoke { name, place } => (place, TokenCommand::Revoke(name)),
    };
    match answer(&place, &command) {
        Ok(answer) => {
            say(&if place.json { as_json(&answer) } else { as_text(&answer) });
            0
        }
        Err(failure) => {
            complain(&format!("tipring: {failure}\n"));
            failure.code
        }
    }
}

fn answer(place: &Place, command: &TokenCommand) -> Result<TokenAnswer, Failure> {
    let config = Config::load(place.config.as_deref()).map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::new(exit::CONFIG, lines.join("\n"))
    })?;
    command::token(&config.node.data, command)
}

fn as_json(answer: &TokenAnswer) -> String {
    let json = match answer {
        TokenAnswer::Added(token) => json!({ "token": token }),
        TokenAnswer::List(tokens) => json!(tokens),
        TokenAnswer::Revoked => json!({ "ok": true }),
    };
    format!("{json}\n")
}

fn as_text(answer: &TokenAnswer) -> String {
    match answer {
        TokenAnswer::Added(token) => format!("{token}\n"),
        TokenAnswer::List(tokens) => tokens.iter().map(line).collect(),
        TokenAnswer::Revoked => String::new(),
    }
}

fn line(token: &Token) -> String {
    let tenants = token.tenants.as_ref().map_or_else(|| "all tenants".to_owned(), |tenants| tenants.join(","));
    let expires = token.expires_at.as_deref().unwrap_or("never expires");
    format!("{} {} {tenants} {} {expires}\n", token.name, token.role.name(), token.created_at)
}
