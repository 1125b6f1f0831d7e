# Lists the files that a pattern means and fetches them: ruby fetch.rb CREDENTIALS PATTERN FOLDER
require "digest"
require "json"
require "net/http"
require "openssl"
abort "usage: ruby fetch.rb CREDENTIALS PATTERN FOLDER" unless ARGV.size == 3
keys, pattern, folder = ARGV
name, host, port, = File.read("#{keys}/server").split
member = Net::HTTP.new(name, port.to_i, nil)
member.ipaddr = host
member.use_ssl = true
member.ca_file = "#{keys}/group.crt"
member.cert = OpenSSL::X509::Certificate.new(File.read("#{keys}/member.crt"))
member.key = OpenSSL::PKey.read(File.read("#{keys}/member.key"))
member.start
JSON.parse(member.get("/v1/find?pattern=#{URI.encode_www_form_component(pattern)}").body)["files"].each do |file|
  puts "#{file["size"]} #{file["place"]}".gsub(/[[:cntrl:]]/, "?")
  answer = member.get("/v1/blob/#{file["cid"]}", "Want-Repr-Digest" => "sha-256=1", "Accept-Encoding" => "identity")
  abort "wrong bytes" unless answer["Repr-Digest"] == "sha-256=:#{Digest::SHA256.base64digest(answer.body)}:"
  File.open(File.join(folder, File.basename(file["path"])), "wbx") { |to| to.write(answer.body) }
end
