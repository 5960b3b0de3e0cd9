//! `tipring token …`: works on the database file, with or without a side process that runs.

use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnectOptions;

use crate::base::time::UnixTime;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::side::clock;
use crate::process::side::opening;
use crate::process::side::store::Store;
use crate::process::side::token;
pub use crate::process::side::token::NewToken;
pub use crate::process::side::token::Role;
pub use crate::process::side::token::Token;
use crate::process::side::token::TokenError;

const ACTOR: &str = "command line";

#[derive(Clone, Debug)]
pub enum TokenCommand {
    Add(NewToken),
    List,
    /// The name of the token.
    Revoke(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenAnswer {
    /// The token itself: it is not kept and cannot be shown again.
    Added(String),
    List(Vec<Token>),
    Revoked,
}

/// Does it to the database in the data folder of a node.
pub fn token(data: &Path, command: &TokenCommand) -> Result<TokenAnswer, Failure> {
    let path = data.join(opening::DATABASE);
    if !path.exists() {
        return Err(Failure::new(exit::OTHER, format!("{} does not exist: start the node once", path.display())));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_io("the runtime", &error))?;
    runtime.block_on(async {
        let store = Store::open(&path).await.map_err(|error| Failure::new(exit::OTHER, error.to_string()))?;
        let answer = run(&store, command).await;
        store.pool.close().await;
        answer
    })
}

async fn run(store: &Store, command: &TokenCommand) -> Result<TokenAnswer, Failure> {
    let failure = |error: TokenError| Failure::new(exit::OTHER, error.to_string());
    match command {
        TokenCommand::Add(new) => token::add(store, new, ACTOR).await.map(TokenAnswer::Added).map_err(failure),
        TokenCommand::List => token::list(store).await.map(TokenAnswer::List).map_err(failure),
        TokenCommand::Revoke(name) => match token::revoke(store, name, ACTOR).await.map_err(failure)? {
            true => Ok(TokenAnswer::Revoked),
            false => Err(Failure::new(exit::OTHER, format!("there is no token of the name {name:?}"))),
        },
    }
}

/// The trace of a call that has ended, as `GET /v1/calls/{call}/trace` gives it and as long; the database is only read.
pub fn trace_of_ended(data: &Path, call: &str) -> Result<Option<Vec<serde_json::Value>>, Failure> {
    let failure = |error: sqlx::Error| Failure::new(exit::OTHER, format!("the database: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_io("the runtime", &error))?;
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(data.join(opening::DATABASE)).read_only(true);
        let mut database = options.connect().await.map_err(failure)?;
        let steps: Option<String> = sqlx::query_scalar("SELECT steps FROM traces WHERE call = ?")
            .bind(call)
            .fetch_optional(&mut database)
            .await
            .map_err(failure)?;
        database.close().await.map_err(failure)?;
        Ok(steps.and_then(|steps| serde_json::from_str(&steps).ok()))
    })
}

/// An RFC 3339 time.
pub fn parse_time(text: &str) -> Option<UnixTime> {
    clock::parse(text)
}
