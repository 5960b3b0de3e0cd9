//! `/`: one self-contained page that shows the node at work. Its script asks the API with a token that the reader has; the page itself
//! holds nothing and needs none.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest;
use sha2::Sha256;

use crate::process::side::http::page::NoParams;
use crate::process::side::http::page::Params;

const PAGE: &str = include_str!("home.html");

/// Only the page's own script and style run, and they speak to no other server.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let script = hash(between("<script>", "</script>")?);
    let style = hash(between("<style>", "</style>")?);
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; img-src data:; media-src blob:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).ok()
});

fn between(start: &str, end: &str) -> Option<&'static str> {
    let (_, rest) = PAGE.split_once(start)?;
    rest.split_once(end).map(|(inside, _)| inside)
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

/// The page; without a policy of its own it would be shown without script and style.
pub(super) async fn show(_: Params<NoParams>) -> Response {
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response();
    if let Some(policy) = &*POLICY {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        assert!(POLICY.is_some());
        let without_namespace = PAGE.replace("\"http://www.w3.org/2000/svg\"", "");
        for foreign in ["http:", "https:", "src=", "@import", "url(", "innerHTML", " style=", " onclick="] {
            assert!(!without_namespace.contains(foreign), "{foreign}");
        }
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
    }
}
