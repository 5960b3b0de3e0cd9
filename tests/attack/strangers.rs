//! Datagrams of strangers: forged sources, floods, amplification, guessing.
