-- Who may write a source's tables. The term counts the owners; it is in every commit of theirs.
CREATE TABLE leases (
    source text PRIMARY KEY,
    term bigint NOT NULL DEFAULT 1,
    holder text NOT NULL,
    released boolean NOT NULL DEFAULT false,
    renewed_at timestamptz NOT NULL DEFAULT now()
);
