-- What a process asks the process that ingests a source to do with one table. A request outlives its asker.
CREATE TABLE table_requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    action text NOT NULL,
    argument jsonb,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'failed')),
    answer jsonb,
    reason text,
    requested_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX table_requests_open ON table_requests (source, id) WHERE state = 'open';
