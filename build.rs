//! What `tipring_build_info` says of a build: the compiler and, of an optimised one, the commit (`TIPRING_COMMIT` for those who
//! build without git). A debug build names none, so that a commit does not cost its developer a rebuild.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TIPRING_COMMIT");
    let compiler = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = said(&compiler, &["--version"]).and_then(|line| Some(line.split(' ').nth(1)?.to_owned()));
    println!("cargo::rustc-env=TIPRING_RUSTC={}", rustc.unwrap_or_default());
    println!("cargo::rustc-env=TIPRING_COMMIT={}", commit().unwrap_or_default());
}

fn commit() -> Option<String> {
    if let Ok(commit) = env::var("TIPRING_COMMIT") {
        return Some(commit);
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    // Grows with each commit and each change of branch.
    println!("cargo::rerun-if-changed={}", said("git", &["rev-parse", "--git-path", "logs/HEAD"])?);
    said("git", &["rev-parse", "--short=12", "HEAD"])
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
