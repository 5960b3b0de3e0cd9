-- Whether clients that answer no challenge with SHA in it are offered MD5 alone.
ALTER TABLE tenants ADD COLUMN md5_fallback INTEGER NOT NULL DEFAULT 1;
-- Names of the digest algorithms that the phone is offered, as the tenant's; empty: the tenant's.
ALTER TABLE phones ADD COLUMN digest TEXT NOT NULL DEFAULT '';
