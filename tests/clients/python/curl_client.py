"""curl: one GET for each argument, all in one run of it, so that connections can be used again."""

import json
import os
import subprocess
import sys
import tempfile

from report import CA, PROXY


def main(urls):
    with tempfile.TemporaryDirectory() as work:
        command = ["curl"]
        for number, url in enumerate(urls):
            command += ["--next"] if number else []
            command += ["-sS", "--cacert", CA, "--max-time", "120", "-w", "%{json}\\n"]
            command += ["-x", PROXY] if PROXY else []
            command += ["-D", f"{work}/head{number}", "-o", f"{work}/body{number}", url]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        for number, line in enumerate(run.stdout.splitlines()):
            told = json.loads(line)
            if told["http_code"]:
                with open(f"{work}/body{number}", encoding="utf-8") as file:
                    print(json.dumps({"status": told["http_code"], "body": file.read()}))
                continue
            # What -D writes has the answer to the CONNECT too.
            head = f"{work}/head{number}"
            lines = open(head, encoding="iso-8859-1").read().splitlines() if os.path.exists(head) else []
            headers = dict(line.split(": ", 1) for line in lines if ": " in line)
            print(json.dumps({"error": told["errormsg"], "code": headers.get("X-Gateway-Error")}))


main(sys.argv[1:])
