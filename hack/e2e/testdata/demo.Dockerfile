FROM @REGISTRY@/base/toolchain:latest AS backend
RUN mkdir -p /opt/backend/lib /opt/backend/bin
COPY --chown=app:app backend/vendor /src/vendor
RUN make -C /src/vendor/greeting PREFIX=/opt/backend
COPY --chown=app:app backend/Makefile /src/Makefile
COPY --chown=app:app backend/src /src/src
RUN make -C /src PREFIX=/opt/backend
COPY --chown=app:app backend/tests /src/tests
RUN sh /src/tests/run.sh /opt/backend/bin/hello
COPY --chown=app:app backend/conf /src/conf
USER app
WORKDIR /src
ENV HELLO_CONF=/src/conf/hello.conf
ENTRYPOINT ["/opt/backend/bin/hello"]

FROM @REGISTRY@/base/busybox:latest AS site
COPY site/templates /usr/share/site
COPY --from=backend /opt/backend/bin /usr/local/bin
COPY --chown=www-data:www-data site/pages/nav.html /data/www/nav.html
RUN mkdir -p /srv/www/assets
RUN sed "s|@GREETING@|$(hello site)|" /usr/share/site/about.html.in /srv/www/nav.html > /srv/www/assets/about.html
RUN gzip -kn9 /srv/www/assets/about.html
COPY --chown=www-data:www-data site/pages /data/www/
WORKDIR /srv/www
EXPOSE 8080
LABEL org.opencontainers.image.title="demo site"
CMD ["busybox", "httpd", "-f", "-p", "8080", "-h", "/srv/www"]

FROM scratch AS tool
COPY --from=backend /opt/backend/bin /bin
ENTRYPOINT ["/bin/hello"]
