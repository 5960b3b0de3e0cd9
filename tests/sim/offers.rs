//! One offer at a time (RFC 3261 §14.2, RFC 3311 §5.2): the node takes none of a phone while its own to that phone is open.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::text;
use crate::text::Text;

/// Call-ID and the node's tag.
type Dialog = (String, String);

#[derive(Debug, Default)]
pub struct Offers {
    /// Branches of requests with offers of the node that have no final response yet.
    ours: BTreeMap<Dialog, BTreeSet<String>>,
    /// Branches of phones' requests that are open, and all that ever came.
    theirs: BTreeSet<(Dialog, String)>,
    seen: BTreeSet<(Dialog, String)>,
    /// The m-lines of what phones offer, by Call-ID and branch.
    lines: BTreeMap<(String, String), usize>,
}

impl Offers {
    /// At the node.
    pub fn received(&mut self, text: &Text) {
        if text.status() == 0 && offers(text) && text.media_lines() > 0 {
            self.lines.insert((text.get("call-id").to_owned(), text.branch()), text.media_lines());
        }
        if text.status() >= 200 && offers(text) {
            if let Some(open) = self.ours.get_mut(&(text.get("call-id").to_owned(), from_tag(text))) {
                open.remove(&text.branch());
            }
        } else if text.status() == 0 && offers(text) && !text.to_tag().is_empty() && text.media().is_some() {
            let offer = ((text.get("call-id").to_owned(), text.to_tag()), text.branch());
            if self.seen.insert(offer.clone()) {
                self.theirs.insert(offer);
            }
        }
    }

    /// By the node.
    pub fn sent(&mut self, text: &Text) {
        if !offers(text) {
            return;
        }
        let call_id = text.get("call-id").to_owned();
        // RFC 3264 §6: "The answer MUST contain exactly the same number of "m=" lines as the offer."
        let lines =
            self.lines.get(&(call_id.clone(), text.branch())).filter(|_| text.status() > 0 && text.media_lines() > 0);
        if let Some(lines) = lines {
            assert_eq!(text.media_lines(), *lines, "the m-lines of the answer in {call_id}, {}", text.branch());
        }
        if text.status() == 0 {
            if !text.to_tag().is_empty() && text.media().is_some() {
                self.ours.entry((call_id, from_tag(text))).or_default().insert(text.branch());
            }
            return;
        }
        let dialog = (call_id, text.to_tag());
        if text.status() < 200 || !self.theirs.remove(&(dialog.clone(), text.branch())) || text.status() >= 300 {
            return;
        }
        let open = self.ours.get(&dialog).is_some_and(|open| !open.is_empty());
        assert!(!open, "an offer of {} is accepted while another goes to that phone", dialog.0);
        assert!(text.media().is_some(), "an offer of {} is accepted without an answer", dialog.0);
    }
}

fn offers(text: &Text) -> bool {
    matches!(text.method(), "INVITE" | "UPDATE")
}

fn from_tag(text: &Text) -> String {
    text::param(text.get("from"), "tag").unwrap_or_default()
}
