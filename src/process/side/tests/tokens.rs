//! Tokens and secrets: made, listed, revoked, expired; and in clear nowhere.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::process::side::clock;
use crate::process::side::command;
use crate::process::side::command::TokenAnswer;
use crate::process::side::command::TokenCommand;
use crate::process::side::directory::secret::Secret;
use crate::process::side::directory::secret::to_hex;
use crate::process::side::tests::world::World;
use crate::process::side::token;
use crate::process::side::token::NewToken;
use crate::process::side::token::Role;

#[tokio::test]
async fn the_first_token_is_made_once() {
    let mut world = World::new().await;
    let path = world.folder.path().join("token");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(world.get("/v1/audit").await.status, 200);
    world.restart().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), world.admin);
    assert_eq!(world.get("/v1/cdrs").await.status, 200);

    // Revoked, it does not come back at the next start.
    assert!(token::revoke(&world.store().await, "admin", "test").await.unwrap());
    world.restart().await;
    assert_eq!(world.get("/v1/cdrs").await.status, 401);
}

#[tokio::test]
async fn tokens_end_when_they_expire_or_are_revoked() {
    let world = World::new().await;
    let store = world.store().await;
    let new = NewToken {
        name: "short".to_owned(),
        role: Role::Read,
        tenants: None,
        expires_at: Some(clock::now() + Duration::from_millis(300)),
    };
    let short = token::add(&store, &new, "test").await.unwrap();
    assert_eq!(world.get_as(&short, "/v1/cdrs").await.status, 200);
    tokio::time::sleep(Duration::from_millis(350)).await;
    let refused = world.get_as(&short, "/v1/cdrs").await;
    assert_eq!(refused.status, 401);
    assert!(refused.head.contains("www-authenticate: bearer"), "{refused:?}");
    assert!(token::add(&store, &new, "test").await.is_err());
    let unknown = NewToken { tenants: Some(vec!["gamma".to_owned()]), expires_at: None, ..new };
    assert!(token::add(&store, &unknown, "test").await.is_err());
}

#[test]
fn the_command_line_works_on_the_file() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let data = world.folder.path();
    let new = NewToken {
        name: "crm".to_owned(),
        role: Role::Recordings,
        tenants: Some(vec!["acme".to_owned()]),
        expires_at: None,
    };
    let TokenAnswer::Added(text) = command::token(data, &TokenCommand::Add(new.clone())).unwrap() else { panic!() };
    assert!(command::token(data, &TokenCommand::Add(new)).is_err());
    assert_eq!(runtime.block_on(world.get_as(&text, "/v1/cdrs")).status, 200);
    let TokenAnswer::List(tokens) = command::token(data, &TokenCommand::List).unwrap() else { panic!() };
    assert_eq!(tokens.iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["admin", "crm"]);
    let revoke = TokenCommand::Revoke("crm".to_owned());
    assert_eq!(command::token(data, &revoke), Ok(TokenAnswer::Revoked));
    assert!(command::token(data, &revoke).is_err());
    assert_eq!(runtime.block_on(world.get_as(&text, "/v1/cdrs")).status, 401);
    let actions = runtime.block_on(world.get("/v1/audit")).column("action");
    assert!(actions.iter().any(|action| action == "token.add"), "{actions:?}");
    assert!(command::token(&data.join("nowhere"), &TokenCommand::List).is_err());
}

#[tokio::test]
async fn secrets_are_in_no_answer_and_in_no_file_of_the_database() {
    let world = World::new().await;
    let reader = world.token("reader", Role::Read, None).await;
    let _ = world.get_as("wrong-token", "/v1/cdrs").await;
    let ha1 = Secret::Password("secret-1001".to_owned()).ha1("1001", "acme.test");
    let digest = ha1.sha256.unwrap();
    let secrets = [
        b"secret-1001".to_vec(),
        b"wrong-token".to_vec(),
        reader.into_bytes(),
        world.admin.clone().into_bytes(),
        digest.to_vec(),
        to_hex(&digest).into_bytes(),
    ];
    let holds = |bytes: &[u8]| secrets.iter().position(|secret| bytes.windows(secret.len()).any(|part| part == secret));
    for path in ["/v1/registrations", "/v1/calls", "/v1/cdrs", "/v1/audit", "/v1/openapi.json", "/metrics"] {
        assert_eq!(holds(world.get(path).await.body.as_bytes()), None, "{path}");
    }
    let mut files = 0;
    for entry in std::fs::read_dir(world.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("tipring.db") {
            continue;
        }
        files += 1;
        assert_eq!(holds(&std::fs::read(&path).unwrap()), None, "{name}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{name}");
    }
    assert!(files >= 2);
}
