-- name: find
-- The names are an array of [project, kind, name] in JSON, so that one statement serves any number of them.
SELECT :QUEUE_COLUMNS FROM json_array_elements(CAST(:names AS json)) AS wanted
JOIN queues
    ON queues.project = (wanted.value ->> 0)
    AND queues.kind = (wanted.value ->> 1)
    AND queues.name = (wanted.value ->> 2)
