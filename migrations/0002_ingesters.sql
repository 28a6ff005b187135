-- What the process that ingests a source says of itself, about once a second.
CREATE TABLE ingesters (
    source text PRIMARY KEY,
    state jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
