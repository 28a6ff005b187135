-- How one process asks the process that ingests a source for a consistent cut at an exact position.
CREATE TABLE cut_requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    state text NOT NULL DEFAULT 'announced'
        CHECK (state IN ('announced', 'paused', 'requested', 'done', 'failed')),
    at_lsn pg_lsn,
    answer jsonb,
    reason text,
    requester_pid integer NOT NULL DEFAULT pg_backend_pid(),
    requested_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX cut_requests_open ON cut_requests (source, id) WHERE state IN ('announced', 'paused', 'requested');
