#!/usr/bin/perl
# Lists the files that a pattern means and fetches them: perl fetch.pl CREDENTIALS PATTERN FOLDER
# Perl's own library has no TLS, so the openssl command speaks it.
use strict;
use warnings;
use Digest::SHA qw(sha256_base64);
use File::Basename qw(basename);
use IPC::Open2 qw(open2);
use JSON::PP qw(decode_json);

my ($keys, $pattern, $folder) = @ARGV;
die "usage: perl fetch.pl CREDENTIALS PATTERN FOLDER\n" unless @ARGV == 3;
open my $server, "<", "$keys/server" or die $!;
my ($name, $host, $port) = split " ", <$server>;
$host = "[$host]" if $host =~ /:/;

sub ask {
    my ($path) = @_;
    my $pid = open2(my $from, my $to, qw(openssl s_client -quiet -no_ign_eof -verify_quiet -verify_return_error), "-connect", "$host:$port",
        "-servername", $name, "-verify_hostname", $name, "-CAfile", "$keys/group.crt", "-cert", "$keys/member.crt", "-key", "$keys/member.key");
    print $to "GET $path HTTP/1.1\r\nHost: $name\r\nWant-Repr-Digest: sha-256=1\r\nConnection: close\r\n\r\n";
    $to->flush;
    local $/;
    binmode $from;
    my ($head, $body) = split /\r\n\r\n/, <$from>, 2;
    waitpid $pid, 0;
    die "no answer\n" unless defined $body and $head =~ m{^HTTP/1.1 200};
    return ($body, $head =~ /^repr-digest: sha-256=:(.*?)=*:/im);
}

binmode STDOUT, ":utf8";
my ($found) = ask("/v1/find?pattern=" . $pattern =~ s/([^A-Za-z0-9])/sprintf "%%%02x", ord $1/ger);
for my $file (@{ decode_json($found)->{files} }) {
    print "$file->{size} $file->{place}" =~ s/\p{Cc}/?/gr, "\n";
    my ($data, $digest) = ask("/v1/blob/$file->{cid}");
    die "wrong bytes\n" unless defined $digest and $digest eq sha256_base64($data);
    my $path = "$folder/" . basename($file->{path});
    utf8::encode($path);
    die "$path is there already\n" if -e $path;
    open my $to, ">:raw", $path or die $!;
    print $to $data;
    close $to or die $!;
}
