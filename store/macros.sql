-- One feature a row: statistics, the best label, and that label's score on the test split.
-- A label is chosen by its score on the score split; to show that same score would flatter.
-- What a feature fires on names it; what it makes the model say stands beside, in output_*.
-- A language model's label stands first where it was clearly better than the rule, else last.
CREATE OR REPLACE VIEW feature AS
WITH scored AS (
    SELECT s.run_id, s.label_id, s.split, s.value, s.lo, s.hi, s.null_value,
           s.metric <> 'detection' AS is_output,
           row_number() OVER (
               PARTITION BY s.run_id, s.label_id, s.split, s.metric <> 'detection'
               ORDER BY s.metric, s.scorer, s.seed
           ) AS place
    FROM label_score AS s
    WHERE s.metric = 'detection' OR s.metric LIKE 'output%'
),
best AS (
    SELECT l.*,
           row_number() OVER (
               PARTITION BY l.run_id, l.feature_id
               ORDER BY l.method IS NOT DISTINCT FROM 'language model' AND l.status <> 'ok',
                        l.side <> 'output' DESC, l.status = 'ok' DESC,
                        chosen.lo DESC NULLS LAST, l.label_id
           ) AS place,
           row_number() OVER (
               PARTITION BY l.run_id, l.feature_id, l.side = 'output' ORDER BY l.label_id
           ) AS turn
    FROM label AS l
    LEFT JOIN scored AS chosen
        ON chosen.run_id = l.run_id AND chosen.label_id = l.label_id
       AND chosen.split = 'score' AND chosen.place = 1
       AND chosen.is_output = (l.side = 'output')
)
SELECT f.*,
       b.label_id, b.name, b.slug, b.text, b.method, b.side,
       b.status = 'weak' OR starts_with(b.name, 'weak:') AS is_weak,
       t.value AS score, t.lo, t.hi, t.null_value,
       o.name AS output_name, o.slug AS output_slug, o.text AS output_text,
       g.value AS output_gain, g.lo AS output_lo, g.hi AS output_hi, g.null_value AS output_null
FROM feature_stats AS f
LEFT JOIN best AS b ON b.run_id = f.run_id AND b.feature_id = f.feature_id AND b.place = 1
LEFT JOIN scored AS t
    ON t.run_id = b.run_id AND t.label_id = b.label_id AND t.place = 1
   AND t.is_output = (b.side = 'output')
   AND (t.split = 'test' OR b.side = 'output' AND t.split = 'calibrate')
LEFT JOIN best AS o
    ON o.run_id = f.run_id AND o.feature_id = f.feature_id AND o.side = 'output' AND o.turn = 1
LEFT JOIN scored AS g
    ON g.run_id = o.run_id AND g.label_id = o.label_id AND g.split = 'calibrate' AND g.place = 1
   AND g.is_output;
COMMENT ON VIEW feature IS 'statistics, best label and its score on the test split; a row a feature';
COMMENT ON COLUMN feature.is_weak IS 'the name does not beat its null; NULL if there is no label';
COMMENT ON COLUMN feature.score IS '0..1, detection of the label, split test; nats of output gain if side is output';
COMMENT ON COLUMN feature.lo IS 'lower end of the 95 % interval of score';
COMMENT ON COLUMN feature.hi IS 'upper end of the 95 % interval of score';
COMMENT ON COLUMN feature.null_value IS 'score where nothing is to be found';
COMMENT ON COLUMN feature.output_name IS 'what it makes the model say, for a reader; weak: if not sure';
COMMENT ON COLUMN feature.output_slug IS 'the same for a command line';
COMMENT ON COLUMN feature.output_text IS 'the same as a sentence';
COMMENT ON COLUMN feature.output_gain IS 'nats a push along it adds to each of these tokens beyond random directions; NULL if unscored';
COMMENT ON COLUMN feature.output_lo IS 'lower end of the 95 % interval of output_gain';
COMMENT ON COLUMN feature.output_hi IS 'upper end of the 95 % interval of output_gain';
COMMENT ON COLUMN feature.output_null IS 'output_gain where nothing is to be found';

-- marked(word): a token's text between « and », its leading space outside.
CREATE OR REPLACE MACRO marked(word) AS regexp_replace(word, '^( ?)(.*)$', '\1«\2»', 's');
COMMENT ON MACRO marked IS
    'a token''s text between « and », its leading space outside';

-- context(tok0, before, after): the text around a token, the token itself marked.
CREATE OR REPLACE MACRO context(tok0, before, after) AS (
    SELECT string_agg(CASE WHEN t.tok = tok0 THEN marked(v.text) ELSE v.text END,
                      '' ORDER BY t.tok)
    FROM token AS t
    JOIN vocab AS v ON v.token_id = t.token_id
    WHERE t.tok BETWEEN tok0 - before AND tok0 + after
      AND t.doc_id = (SELECT c.doc_id FROM token AS c WHERE c.tok = tok0)
);
COMMENT ON MACRO context IS
    'the text around a token, before and after in tokens, the token itself marked';

-- top_contexts(fid, k): the k tokens on which a feature fires most strongly.
CREATE OR REPLACE MACRO top_contexts(fid, k, run_id := __DEFAULT_RUN__) AS TABLE
WITH strongest AS (
    SELECT a.tok, a.value
    FROM act_file AS a
    WHERE a.run_id = run_id AND a.bucket = act_bucket(run_id, fid) AND a.feature_id = fid
    ORDER BY a.value DESC, a.tok
    LIMIT k
),
top AS (
    SELECT s.tok, s.value, row_number() OVER (ORDER BY s.value DESC, s.tok) - 1 AS rank
    FROM strongest AS s
),
near AS (
    SELECT top.rank, unnest(range(top.tok - 12, top.tok + 9)) AS tok FROM top
),
words AS (
    SELECT n.rank, n.tok, t.doc_id, t.pos, v.text
    FROM near AS n
    JOIN token AS t ON t.tok = n.tok
    JOIN vocab AS v ON v.token_id = t.token_id
)
SELECT top.rank, top.value, top.tok, here.doc_id, here.pos, here.text AS token,
       string_agg(CASE WHEN w.tok = top.tok THEN marked(w.text) ELSE w.text END,
                  '' ORDER BY w.tok) AS context
FROM top
LEFT JOIN words AS here ON here.rank = top.rank AND here.tok = top.tok
LEFT JOIN words AS w ON w.rank = top.rank AND w.doc_id = here.doc_id
GROUP BY ALL
ORDER BY top.rank;
COMMENT ON MACRO TABLE top_contexts IS
    'the k tokens where it fires most strongly: rank, value, tok, doc_id, pos, token, context';

-- active_at(tok0, tok1): what fires on the tokens tok0 <= tok < tok1.
CREATE OR REPLACE MACRO active_at(tok0, tok1, run_id := __DEFAULT_RUN__) AS TABLE
SELECT a.tok, t.doc_id, t.pos, v.text AS token, a.feature_id, f.slug, a.value
FROM act_token AS a
LEFT JOIN token AS t ON t.tok = a.tok
LEFT JOIN vocab AS v ON v.token_id = t.token_id
LEFT JOIN feature AS f ON f.run_id = a.run_id AND f.feature_id = a.feature_id
WHERE a.run_id = run_id AND a.tok >= tok0 AND a.tok < tok1
ORDER BY a.tok, a.value DESC, a.feature_id;
COMMENT ON MACRO TABLE active_at IS
    'what fires on tok0 <= tok < tok1: tok, doc_id, pos, token, feature_id, slug, value';

-- coact(a, b): how often two features fire on the same token, and how alike their values are.
CREATE OR REPLACE MACRO coact(a, b, run_id := __DEFAULT_RUN__) AS TABLE
WITH first AS (
    SELECT x.tok, x.value FROM act_file AS x
    WHERE x.run_id = run_id AND x.bucket = act_bucket(run_id, a) AND x.feature_id = a
),
second AS (
    SELECT x.tok, x.value FROM act_file AS x
    WHERE x.run_id = run_id AND x.bucket = act_bucket(run_id, b) AND x.feature_id = b
),
count_both AS (
    SELECT count(*) AS n_both, corr(first.value, second.value) AS value_corr
    FROM first JOIN second ON first.tok = second.tok
),
count_each AS (
    SELECT (SELECT count(*) FROM first) AS n_a, (SELECT count(*) FROM second) AS n_b
)
SELECT n_a, n_b, n_both,
       n_both / nullif(n_a + n_b - n_both, 0) AS jaccard,
       n_both * r.n_tokens / nullif(CAST(n_a AS DOUBLE) * n_b, 0) AS lift,
       value_corr
FROM count_both, count_each
LEFT JOIN run AS r ON r.run_id = run_id;
COMMENT ON MACRO TABLE coact IS
    'two features on the same tokens: n_a, n_b, n_both, jaccard, lift (1 is chance), value_corr';

-- nearest(fid, k): the k features whose decoder rows point most nearly the same way.
CREATE OR REPLACE MACRO nearest(fid, k, run_id := __DEFAULT_RUN__) AS TABLE
SELECT d.feature_id, f.slug, f.name, list_cosine_similarity(d.vec, me.vec) AS cosine
FROM decoder AS d
JOIN decoder AS me ON me.run_id = d.run_id AND me.feature_id = fid
LEFT JOIN feature AS f ON f.run_id = d.run_id AND f.feature_id = d.feature_id
WHERE d.run_id = run_id AND me.run_id = run_id AND d.feature_id <> fid
ORDER BY cosine DESC, d.feature_id
LIMIT k;
COMMENT ON MACRO TABLE nearest IS
    'the k most similar decoder rows: feature_id, slug, name, cosine';

-- promotes(piece): the features that raise a token's logit, by its piece or by its text.
CREATE OR REPLACE MACRO promotes(piece, run_id := __DEFAULT_RUN__) AS TABLE
SELECT g.feature_id, f.slug, f.name, v.piece, v.text, g.rank, g.logit
FROM logit AS g
JOIN vocab AS v ON v.token_id = g.token_id
LEFT JOIN feature AS f ON f.run_id = g.run_id AND f.feature_id = g.feature_id
WHERE g.run_id = run_id AND g.side = 'promotes'
  AND (v.piece = piece OR v.text = piece OR trim(v.text) = piece)
ORDER BY g.logit DESC, g.feature_id;
COMMENT ON MACRO TABLE promotes IS
    'features that raise a token''s logit: feature_id, slug, name, piece, text, rank, logit';

-- search_label(q): the labels that speak of a text, by BM25 (k1 1.2, b .75).
CREATE OR REPLACE MACRO search_label(q, k := 20, run_id := __DEFAULT_RUN__) AS TABLE
WITH asked AS (
    SELECT DISTINCT unnest(regexp_extract_all(lower(q), '[\p{L}\p{N}]+')) AS word
),
page AS (
    SELECT l.label_id, l.feature_id, l.slug, l.name, l.text, l.status,
           regexp_extract_all(lower(concat_ws(' ', l.slug, l.name, l.text)),
                              '[\p{L}\p{N}]+') AS words
    FROM label AS l
    WHERE l.run_id = run_id
),
size AS (SELECT count(*) AS pages, avg(len(words)) AS mean_words FROM page),
hit AS (
    SELECT p.label_id, w.word, count(*) AS times, any_value(len(p.words)) AS n_words
    FROM (SELECT label_id, words, unnest(words) AS word FROM page) AS p
    JOIN asked AS w ON w.word = p.word
    GROUP BY p.label_id, w.word
),
rarity AS (
    SELECT h.word, ln(1 + (any_value(s.pages) - count(*) + .5) / (count(*) + .5)) AS idf
    FROM hit AS h, size AS s
    GROUP BY h.word
),
ranked AS (
    SELECT h.label_id,
           sum(r.idf * h.times * 2.2 / (h.times + 1.2 * (.25 + .75 * h.n_words / s.mean_words)))
               AS bm25
    FROM hit AS h
    JOIN rarity AS r ON r.word = h.word, size AS s
    GROUP BY h.label_id
)
SELECT p.feature_id, p.slug, p.name, p.text, p.status, ranked.bm25
FROM ranked
JOIN page AS p ON p.label_id = ranked.label_id
ORDER BY ranked.bm25 DESC, p.feature_id, p.label_id
LIMIT k;
COMMENT ON MACRO TABLE search_label IS
    'labels that speak of a text, k := 20 of them: feature_id, slug, name, text, status, bm25';

-- steer_vec(slug, alpha): the vector that steering adds, alpha in multiples of the mean
-- residual norm (unit `norm`), in the stream's own units.
CREATE OR REPLACE MACRO steer_vec(slug, alpha, run_id := __DEFAULT_RUN__) AS TABLE
SELECT f.feature_id, f.slug, f.is_weak, r.hook_point, CAST(alpha AS DOUBLE) AS coefficient,
       'norm' AS unit,
       CAST(alpha * r.mean_norm AS REAL) AS length,
       list_transform(d.vec, lambda x: CAST(x * alpha * r.mean_norm AS REAL)) AS vec
FROM feature AS f
JOIN run AS r ON r.run_id = f.run_id
JOIN decoder AS d ON d.run_id = f.run_id AND d.feature_id = f.feature_id
WHERE f.run_id = run_id AND d.run_id = run_id AND f.slug = slug;
COMMENT ON MACRO TABLE steer_vec IS
    'the vector that steering adds, alpha in multiples of the mean residual norm: feature_id, slug, is_weak, hook_point, coefficient, unit, length, vec';
