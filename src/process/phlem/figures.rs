//! What a run counts and measures; mergeable over threads and machines.

use serde::Deserialize;
use serde::Serialize;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {}

impl Figures {
    pub fn merge(&mut self, _other: &Self) {}
}
