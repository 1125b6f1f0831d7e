<?php // Lists the files that a pattern means and fetches them: php fetch.php CREDENTIALS PATTERN FOLDER
if ($argc !== 4) { fwrite(STDERR, "usage: php fetch.php CREDENTIALS PATTERN FOLDER\n"); exit(2); }
[, $keys, $pattern, $folder] = $argv;
[$name, $host, $port] = explode(" ", file_get_contents("$keys/server"));
$at = "https://" . (str_contains($host, ":") ? "[$host]" : $host) . ":$port/v1";
$context = stream_context_create([
    "ssl" => ["cafile" => "$keys/group.crt", "local_cert" => "$keys/member.crt", "local_pk" => "$keys/member.key", "peer_name" => $name],
    "http" => ["header" => "Want-Repr-Digest: sha-256=1"],
]);
$found = file_get_contents("$at/find?pattern=" . rawurlencode($pattern), false, $context) or exit(1);
foreach (json_decode($found)->files as $file) {
    echo preg_replace('/\p{Cc}/u', "?", "$file->size $file->place"), "\n";
    $data = file_get_contents("$at/blob/$file->cid", false, $context);
    $digest = "Repr-Digest: sha-256=:" . base64_encode(hash("sha256", $data, true)) . ":";
    if (!in_array(strtolower($digest), array_map("strtolower", $http_response_header))) throw new Exception("wrong bytes");
    $to = fopen("$folder/" . basename($file->path), "x") or exit(1);
    fwrite($to, $data);
}
