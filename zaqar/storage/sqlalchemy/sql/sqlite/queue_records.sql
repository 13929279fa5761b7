-- name: find
-- The names are an array of [project, kind, name] in JSON, so that one statement serves any number of them.
SELECT :QUEUE_COLUMNS FROM json_each(:names) AS wanted
JOIN queues
    ON queues.project = json_extract(wanted.value, '$[0]')
    AND queues.kind = json_extract(wanted.value, '$[1]')
    AND queues.name = json_extract(wanted.value, '$[2]')
