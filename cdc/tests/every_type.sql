-- A table with one column of every type, c1 to cN, and rows of plain, of awkward and of no values.
CREATE TYPE mood AS ENUM ('sad', 'so so', 'glad');
CREATE TYPE pair AS (a int, b text, c numeric);
CREATE DOMAIN amount AS numeric(12,2);
CREATE DOMAIN small_amount AS amount CHECK (value <> 7);
CREATE DOMAIN moment AS timestamptz;
CREATE TEMP TABLE sample(n serial, type text, texts text[]);
INSERT INTO sample(type, texts) VALUES
    ('boolean', ARRAY['t', 'f']),
    ('smallint', ARRAY['-32768', '32767']),
    ('integer', ARRAY['-2147483648', '0']),
    ('bigint', ARRAY['9223372036854775807', '-9223372036854775808']),
    ('real', ARRAY['1e-40', 'NaN', '-Infinity']),
    ('double precision', ARRAY['0.1', 'NaN', '-Infinity', '-0', '5e-324']),
    ('numeric', ARRAY['1.50', 'NaN', '-Infinity', '-0.000', '1' || repeat('0', 5000) || '.5']),
    ('numeric(12,2)', ARRAY['-0.05', 'NaN', '9999999999.99']),
    ('numeric(38,10)', ARRAY['-9999999999999999999999999999.0000000001', 'NaN']),
    ('numeric(38,0)', ARRAY['99999999999999999999999999999999999999', 'NaN', '0']),
    ('numeric(50,2)', ARRAY['123456789012345678901234567890123456789012345678.90', 'NaN']),
    ('amount', ARRAY['0.50', 'NaN']),
    ('small_amount', ARRAY['-1', 'NaN']),
    ('money', ARRAY['-1234.50', '92233720368547758.07']),
    ('text', ARRAY['é', '', E'tab\tnew\nline\r\\N', repeat('long ', 5000)]),
    ('varchar(5)', ARRAY['ab', '']),
    ('char(4)', ARRAY['ab', '']),
    ('"char"', ARRAY['a', '']),
    ('name', ARRAY['a name']),
    ('bytea', ARRAY['\x00ff', '', '\x5c']),
    ('uuid', ARRAY['00000000-0000-0000-0000-00000000000A']),
    ('json', ARRAY['{ "b": [1, null],  "a": "\u00e9"}', 'null']),
    ('jsonb', ARRAY['{ "b": [1, null],  "a": "\u00e9"}', 'null', '1.50']),
    ('jsonpath', ARRAY['$.a[*] ? (@ > 1)']),
    ('xml', ARRAY['<a b="1">é</a>']),
    ('date', ARRAY['2024-02-29', 'infinity', '-infinity', '4713-01-01 BC', '5874897-12-31']),
    ('time', ARRAY['01:02:03.000004', '24:00']),
    ('time(0)', ARRAY['01:02:03']),
    ('timetz', ARRAY['01:02:03+05:30', '24:00-12']),
    ('timestamp', ARRAY['2024-02-29 01:02:03.000004', 'infinity', '-infinity', '0044-03-15 12:00 BC', '294276-12-31 23:59:59.999999']),
    ('timestamp(0)', ARRAY['2024-02-29 01:02:03']),
    ('timestamptz', ARRAY['2024-02-29 01:02:03+02', 'infinity', '-infinity', '4713-01-01 00:00+00 BC', '294276-12-31 23:59:59.999999+00']),
    ('moment', ARRAY['1969-12-31 23:59:59.999999+00', '-infinity']),
    ('interval', ARRAY['1 year -2 days 03:04:05.000006', '-1 mon', '0']),
    ('interval day to second', ARRAY['4 days 03:04']),
    ('int[]', ARRAY['{1,NULL,3}', '{}', '{{1,NULL},{3,4}}', '[2:3]={1,2}']),
    ('text[]', ARRAY['{"a,b","\"q\"",NULL,"","NULL","\\"}', '{}']),
    ('numeric(5,2)[]', ARRAY['{1.5,NULL}', '{NaN}']),
    ('double precision[]', ARRAY['{0.1,-0}', '{NaN,Infinity}']),
    ('timestamptz[]', ARRAY['{"2024-01-01 00:00+05:45",NULL}', '{infinity}']),
    ('bytea[]', ARRAY['{"\\x00ff",NULL}']),
    ('interval[]', ARRAY['{"1 day 02:03","-1 mon"}']),
    ('mood[]', ARRAY['{"so so",NULL}']),
    ('pair[]', ARRAY['{"(1,\"x y\",NaN)",NULL}']),
    ('amount[]', ARRAY['{0.5,NaN}']),
    ('mood', ARRAY['so so', 'sad']),
    ('pair', ARRAY['(1,"a ""b"", c",2.50)', '(,,)', '(2,"",NaN)']),
    ('inet', ARRAY['10.0.0.1', '::1/64', '10.0.0.0/8']),
    ('cidr', ARRAY['10.0.0.0/8', '::/0']),
    ('macaddr', ARRAY['08:00:2b:01:02:03']),
    ('macaddr8', ARRAY['08:00:2b:01:02:03:04:05']),
    ('bit(4)', ARRAY['1010']),
    ('varbit', ARRAY['101', '']),
    ('point', ARRAY['(0.1,-2)', '(NaN,Infinity)']),
    ('line', ARRAY['{1,-1,0.5}']),
    ('lseg', ARRAY['[(0,0),(1,0.1)]']),
    ('box', ARRAY['(1,1),(0,0)']),
    ('path', ARRAY['((0,0),(1,1))', '[(0,0),(1,1)]']),
    ('polygon', ARRAY['((0,0),(1,1),(0,1))']),
    ('circle', ARRAY['<(0,0),1.5>']),
    ('int4range', ARRAY['[1,5)', 'empty', '(,)']),
    ('int8range', ARRAY['[1,5]']),
    ('numrange', ARRAY['(1.50,2]', '[1,NaN]']),
    ('daterange', ARRAY['[2024-01-01,2024-02-01)', '[2024-01-01,infinity]']),
    ('tsrange', ARRAY['[2024-01-01 00:00,2024-01-02 01:02:03.5)', '(-infinity,)']),
    ('tstzrange', ARRAY['[2024-01-01 00:00+05:45,2024-01-02 00:00+00)', '(,infinity)']),
    ('int4multirange', ARRAY['{[1,3),[5,9)}', '{}']),
    ('int8multirange', ARRAY['{[1,3)}']),
    ('nummultirange', ARRAY['{[1.5,3)}']),
    ('datemultirange', ARRAY['{[2024-01-01,2024-02-01)}']),
    ('tsmultirange', ARRAY['{[2024-01-01 00:00,2024-01-02 00:00)}']),
    ('tstzmultirange', ARRAY['{[2024-01-01 00:00+05:45,infinity)}']),
    ('tsvector', ARRAY['a:1A b:2 ''it''''s''']),
    ('tsquery', ARRAY['a & !(b | c:*)']),
    ('oid', ARRAY['4294967295']),
    ('regclass', ARRAY['pg_class']),
    ('regtype', ARRAY['timestamptz', 'integer[]']),
    ('regproc', ARRAY['now']),
    ('regrole', ARRAY['pg_monitor']),
    ('xid', ARRAY['3']),
    ('xid8', ARRAY['18446744073709551615']),
    ('cid', ARRAY['7']),
    ('tid', ARRAY['(1,2)']),
    ('pg_lsn', ARRAY['16/B374D848']),
    ('pg_snapshot', ARRAY['10:20:10,14,15']),
    ('txid_snapshot', ARRAY['10:20:10,14,15']),
    ('int2vector', ARRAY['1 2 3']),
    ('oidvector', ARRAY['1 2 3']);
INSERT INTO sample(type, texts)
    SELECT * FROM (VALUES ('numeric(5,-2)', ARRAY['12345', 'NaN']), ('numeric(2,5)', ARRAY['0.00012', 'NaN'])) v
    WHERE current_setting('server_version_num')::int >= 150000;
UPDATE sample SET texts = texts || 'infinity'::text
    WHERE type = 'interval' AND current_setting('server_version_num')::int >= 170000;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'hstore') THEN
        CREATE EXTENSION hstore;
        INSERT INTO sample(type, texts) VALUES ('hstore', ARRAY['"a b"=>NULL, c=>"d"', '']);
    END IF;
    EXECUTE (SELECT format('CREATE TABLE every_type(id int PRIMARY KEY, %s)', string_agg(format('c%s %s', n, type), ', ' ORDER BY n))
        FROM sample);
    FOR row IN 1..6 LOOP
        EXECUTE (SELECT format('INSERT INTO every_type VALUES (%s, %s)', row, string_agg(format('%L', texts[row]), ', ' ORDER BY n))
            FROM sample);
    END LOOP;
END $$;
DROP TABLE sample;
