ARG REGISTRY
FROM ${REGISTRY}/base/busybox:latest
COPY pages /srv/pages
RUN <<EOF
cat /srv/pages/*.txt > /srv/pages/all
rm /srv/pages/two.txt
EOF
