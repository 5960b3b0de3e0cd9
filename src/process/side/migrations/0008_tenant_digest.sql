-- Names of the digest algorithms that the tenant offers, in their order, blanks between; empty: the node's.
ALTER TABLE tenants ADD COLUMN digest TEXT NOT NULL DEFAULT '';
