//! What a stolen account can do, and what somebody can who has read another's messages.
