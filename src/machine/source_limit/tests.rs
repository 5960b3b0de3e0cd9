//! Failures of guessers and floods against the room of offices full of phones.
