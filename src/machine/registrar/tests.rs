//! Registrations as phones send them.
