//! Readings, verdicts and challenges.
